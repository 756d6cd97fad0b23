"""The Triton model of a line's graph, on a server without the native backend of its target: one process a line."""

from pathlib import Path

import numpy as np

from flawline.artefact.manifest import verify
from flawline.serving import triton
from flawline.targets import TARGETS


class GraphModel:
    """PICTURE UINT8 [S, S, 3] -> what the line's parts give, and the key of its artefact."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load and verify the artefact beside this model."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self.graph = TARGETS.get(verify(folder).target).load(folder, triton.threads(args))

    def execute(self, requests: list[triton.Request]) -> list[triton.Response]:
        """Run the graph once for all requests."""
        pictures = [triton.array(request, "PICTURE") for request in requests]
        outputs = self.graph.run(np.concatenate(pictures))
        counts = [len(part) for part in pictures]
        parts = zip(*(triton.split(values, counts) for values in outputs.values()), strict=True)
        return [triton.answer(**dict(zip(outputs, part, strict=True))) for part in parts]
