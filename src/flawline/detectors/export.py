"""Export a line's graph: one teacher pass, what its parts make of it, and the key of its artefact."""

import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from flawline.detectors.line import Line
from flawline.scoring.picture import EIGHT

INPUT = "PICTURE"
KEY = "ARTEFACT_KEY"


class LineGraph(nn.Module):
    """PICTURE [B, S, S, 3] -> what the line's parts give and, repeated B times, ARTEFACT_KEY INT32 [2].

    The key travels inside the graph, so that settings, calibration and banks can never be those of another build.
    """

    key: Tensor

    def __init__(self, line: Line, artefact_key: tuple[int, int]) -> None:
        super().__init__()
        self.line = line
        self.register_buffer("key", torch.tensor([artefact_key], dtype=torch.int32))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        return (*self.line.outputs, KEY)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """See the class; in the order of `outputs`."""
        return (*self.line(pictures), self.key.expand(pictures.shape[0], -1))


def export_onnx(graph: LineGraph, size: int, path: Path) -> None:
    """Write `graph` for squares of `size` pixels and any batch as a checked ONNX file without side files.

    PICTURE is UINT8, or UINT16 where the line's pictures fill more than eight bits.
    """
    dtype = torch.uint8 if graph.line.teacher.bits == EIGHT else torch.uint16
    example = torch.zeros((2, size, size, 3), dtype=dtype)
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
