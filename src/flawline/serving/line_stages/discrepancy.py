"""A line's graph on a server without the native backend of its target: one process per line."""

from pathlib import Path

import numpy as np

from flawline.artefact.manifest import verify
from flawline.serving import triton
from flawline.targets import get_target


class TritonPythonModel:
    """PICTURE UINT8 [S, S, 3] -> the line's constants, and of DISCREPANCY and EMBEDDING what the line has."""

    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        self.graph = get_target(verify(folder).target).load(folder, triton.threads(args))

    def execute(self, requests: list[triton.Request]) -> list[triton.Response]:
        pictures = [triton.array(request, "PICTURE") for request in requests]
        outputs = self.graph.run(np.concatenate(pictures))
        counts = [len(part) for part in pictures]
        parts = zip(*(triton.split(values, counts) for values in outputs.values()), strict=True)
        return [triton.answer(**dict(zip(outputs, part, strict=True))) for part in parts]
