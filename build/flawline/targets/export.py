"""Export a line's graph: teacher and patch features, and the constants that later stages need."""

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flawline.detectors.exdd.model import ExDD
from flawline.stages.postprocess import LineSettings

INPUT = "PICTURE"
OUTPUTS = ("EMBEDDING", "ARTEFACT_KEY", "SETTINGS", "CALIBRATION")


class LineGraph(nn.Module):
    """PICTURE UINT8 [B, S, S, 3] -> EMBEDDING FP32 [B, P, D] and, repeated B times, the line's constants.

    The constants travel inside the graph, so that they can never be those of another build: ARTEFACT_KEY INT32
    [2], SETTINGS FP32 [9] (LineSettings) and CALIBRATION FP32 [n] (ascending normal scores).
    """

    key: Tensor
    settings: Tensor
    calibration: Tensor

    def __init__(
        self,
        model: ExDD,
        settings: LineSettings,
        calibration: NDArray[np.float32],
        artefact_key: tuple[int, int],
    ) -> None:
        super().__init__()
        self.teacher, self.features = model.teacher, model.features
        self.register_buffer("key", torch.tensor([artefact_key], dtype=torch.int32))
        self.register_buffer("settings", torch.from_numpy(settings.to_array())[None])
        self.register_buffer("calibration", torch.from_numpy(calibration)[None])

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See the class."""
        batch = pictures.shape[0]
        constants = (part.expand(batch, -1) for part in (self.key, self.settings, self.calibration))
        key, settings, calibration = constants
        return self.features(self.teacher(pictures)), key, settings, calibration


def export_onnx(graph: LineGraph, size: int, path: Path) -> None:
    """Write `graph` for squares of `size` pixels and any batch as a checked ONNX file without side files."""
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    with warnings.catch_warnings():  # the exporter's notes to its own developers
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph.cpu().eval(),
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            verbose=False,
        )
    if program is None:  # the exporter's signature allows it; only the legacy path returns None
        msg = "torch.onnx.export returned no program"
        raise RuntimeError(msg)
    program.save(path, external_data=False)
    onnx.checker.check_model(str(path), full_check=True)
