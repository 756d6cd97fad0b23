"""A Triton Python model that keeps a line's contract without any learning: red is a defect, orange is looked at.

The client tests publish it as `toy` and `toy_pixels`; Triton imports it, the tests never do.
"""

import io
import time

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image

SIZE, BOXES = 64, 4
SLOW = (250, 0, 250)
"""Colour of the top left pixel that asks for a late answer."""
SLOW_SECONDS = 3.0


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        try:
            pixels = self._pixels(request)
        except (OSError, ValueError) as error:
            message = f"not a picture ({error}); send a JPEG or PNG file"
            return pb_utils.InferenceResponse(
                error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
            )
        if tuple(pixels[0, 0]) == SLOW:
            time.sleep(SLOW_SECONDS)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in judge(pixels)])

    def _pixels(self, request):
        raw = pb_utils.get_input_tensor_by_name(request, "PIXELS")
        if raw is not None:
            return raw.as_numpy()[0]
        content = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy().item()
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))


def judge(pixels):
    height, width = pixels.shape[:2]
    scale = SIZE / max(width, height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 100)
    anomaly_map = np.zeros((1, SIZE, SIZE), dtype=np.float32)
    spot = Image.fromarray(red.astype(np.float32) * 2).resize(inner, Image.Resampling.BOX)
    anomaly_map[0, : inner[1], : inner[0]] = np.asarray(spot)
    boxes = np.full((1, BOXES, 6), -1, dtype=np.float32)
    if red.any():
        rows, columns = np.nonzero(red)
        boxes[0, 0] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, 2.0, 0
    yield "SCORE", np.array([[red.mean()]], dtype=np.float32)
    yield "P_VALUE", np.array([[0.01 if red.any() else 0.5]], dtype=np.float32)
    orange = (pixels[..., 0] > 200) & (abs(pixels[..., 1].astype(int) - 150) < 20)
    yield "VERDICT", np.array([[2 if red.any() else int(orange.any())]], dtype=np.int32)
    yield "IS_DEFECT", np.array([[red.any()]])
    yield "ANOMALY_MAP", anomaly_map
    yield "MASK", (anomaly_map >= 1).astype(np.uint8)
    yield "BOXES", boxes
