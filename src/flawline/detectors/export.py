"""Export a line's graph: one teacher pass, what its parts make of it, and the constants that later stages need."""

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flawline.detectors.line import Line
from flawline.scoring.settings import LineSettings

INPUT = "PICTURE"
CONSTANTS = ("ARTEFACT_KEY", "SETTINGS", "CALIBRATION")


class LineGraph(nn.Module):
    """PICTURE UINT8 [B, S, S, 3] -> what the line's parts find and, repeated B times, the line's constants.

    A student gives DISCREPANCY FP32 [B, h, w] >= 0, memory banks take EMBEDDING FP32 [B, P, D]; a part that the
    line has not has no output. The constants travel inside the graph, so that they can never be those of another
    build: ARTEFACT_KEY INT32 [2], SETTINGS FP32 [SETTINGS] (LineSettings) and CALIBRATION FP32 [n] (ascending
    normal scores).
    """

    key: Tensor
    settings: Tensor
    calibration: Tensor

    def __init__(
        self,
        line: Line,
        settings: LineSettings,
        calibration: NDArray[np.float32],
        artefact_key: tuple[int, int],
    ) -> None:
        super().__init__()
        self.line = line
        self.register_buffer("key", torch.tensor([artefact_key], dtype=torch.int32))
        self.register_buffer("settings", torch.from_numpy(settings.to_array())[None])
        self.register_buffer("calibration", torch.from_numpy(calibration)[None])

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        parts = (("DISCREPANCY", self.line.student), ("EMBEDDING", self.line.memory))
        return (*(name for name, part in parts if part is not None), *CONSTANTS)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """See the class; in the order of `outputs`."""
        embedding, discrepancy = self.line(pictures)
        found = [part for part in (discrepancy, embedding) if part is not None]
        constants = (self.key, self.settings, self.calibration)
        return (*found, *(part.expand(pictures.shape[0], -1) for part in constants))


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
            output_names=list(graph.outputs),
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            verbose=False,
        )
    if program is None:  # the exporter's signature allows it; only the legacy path returns None
        msg = "torch.onnx.export returned no program"
        raise RuntimeError(msg)
    program.save(path, external_data=False)
    onnx.checker.check_model(str(path), full_check=True)
