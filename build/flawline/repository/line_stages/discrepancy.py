"""A line's graph on a server without the native backend of its target: one process per line."""

from pathlib import Path

import numpy as np

from flawline.repository.manifest import verify
from flawline.stages import triton
from flawline.stages.graph import load_graph

OUTPUTS = ("EMBEDDING", "ARTEFACT_KEY", "SETTINGS", "CALIBRATION")


class TritonPythonModel:
    """PICTURE UINT8 [S, S, 3] -> EMBEDDING FP32 [P, D] and the line's constants."""

    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        self.graph = load_graph(folder, verify(folder).target, threads=triton.threads(args))

    def execute(self, requests: list[triton.Request]) -> list[triton.Response]:
        pictures = [triton.array(request, "PICTURE") for request in requests]
        outputs = self.graph.run(np.concatenate(pictures))
        counts = [len(part) for part in pictures]
        parts = zip(*(triton.split(outputs[name], counts) for name in OUTPUTS), strict=True)
        return [triton.answer(**dict(zip(OUTPUTS, part, strict=True))) for part in parts]
