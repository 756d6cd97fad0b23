"""Ask a server as any gRPC client would, and compare what it answers with a line in this process."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from small_build import SIZE
from tritonclient.grpc import InferInput, InferResult

from flawline.scoring.verdict import MAX_BOXES, Verdict
from flawline.serving.tritonserver import TritonServer

OUTPUTS = {
    "SCORE": (np.float32, (1,)),
    "P_VALUE": (np.float32, (1,)),
    "VERDICT": (np.int32, (1,)),
    "IS_DEFECT": (np.bool_, (1,)),
    "ANOMALY_MAP": (np.float32, (SIZE, SIZE)),
    "MASK": (np.uint8, (SIZE, SIZE)),
    "BOXES": (np.float32, (MAX_BOXES, 6)),
}

Ask = Callable[[str, InferInput], InferResult]
Pixels = NDArray[np.uint8]


def server_of(repository: Path, **options: Any) -> TritonServer:
    return TritonServer(repository, grpc_port=0, http_port=0, metrics_port=0, **options)


def encoded(pixels: Pixels, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format=kind)
    return content.getvalue()


def image(*contents: bytes) -> InferInput:
    return tensor("IMAGE", np.array([[content] for content in contents], dtype=np.object_), "BYTES")


def pixels(*arrays: Pixels) -> InferInput:
    return tensor("PIXELS", np.stack(arrays), "UINT8")


def tensor(name: str, values: NDArray[Any], dtype: str) -> InferInput:
    return InferInput(name, list(values.shape), dtype).set_data_from_numpy(values)


def assert_same(result: InferResult, row: int, expected: Verdict) -> None:
    answers = {name: result.as_numpy(name)[row] for name in OUTPUTS}  # type: ignore[index]
    np.testing.assert_allclose(answers["SCORE"], [expected.score], rtol=1e-4)
    np.testing.assert_array_equal(answers["P_VALUE"], np.float32([expected.p_value]))
    assert answers["VERDICT"].item() == expected.decision
    assert answers["IS_DEFECT"].item() is expected.is_defect
    np.testing.assert_allclose(answers["ANOMALY_MAP"], expected.anomaly_map, rtol=1e-3, atol=1e-5)
    assert (answers["MASK"] != expected.mask).sum() <= 2, "but for a pixel on the threshold"
    np.testing.assert_allclose(answers["BOXES"], expected.boxes, rtol=1e-2, atol=1.0)
