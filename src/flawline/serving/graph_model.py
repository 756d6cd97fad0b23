"""The Triton model of a line's graph, on a server without the native backend of its target: one process a line."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flawline.artefact.manifest import verify
from flawline.scoring.picture import check_size
from flawline.scoring.windows import frame, run_windows
from flawline.serving import triton
from flawline.targets import TARGETS


class GraphModel:
    """PICTURE [S, S, 3] -> what the line's parts give, and the key of its artefact.

    A line with windows takes whole pictures, [H, W, 3], one a request, and gives grids and boxes of the whole
    plane. Pictures are UINT8, or UINT16 where the line's fill more than eight bits.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load and verify the artefact beside this model."""
        folder = Path(args["model_repository"]) / args["model_version"]
        manifest = verify(folder)
        self.size, self.windows, self.bits = manifest.size, manifest.windows, manifest.bits
        self.boxes = manifest.boxes
        self.graph = TARGETS.get(manifest.target).load(folder, triton.threads(args))

    def execute(self, requests: list[triton.Request]) -> list[triton.Response]:
        """Run the graph once for all requests, or window by window for each."""
        if self.windows is not None:
            return [triton.answered(self._by_windows, request) for request in requests]
        return triton.together(self._at_once, requests)

    def _at_once(self, requests: Sequence[triton.Request]) -> list[triton.Response]:
        pictures = [triton.array(request, "PICTURE") for request in requests]
        outputs = self.graph.run(triton.joined(pictures))
        counts = [len(part) for part in pictures]
        parts = zip(*(triton.split(values, counts) for values in outputs.values()), strict=True)
        return [triton.answer(**dict(zip(outputs, part, strict=True))) for part in parts]

    def _by_windows(self, request: triton.Request) -> triton.Response:
        (picture,) = triton.array(request, "PICTURE")
        check_size(picture.shape[1], picture.shape[0])
        plane, geometry = frame(picture, self.size, self.windows, self.bits)
        outputs = run_windows(self.graph.run, plane, geometry, self.boxes)
        return triton.answer(**{name: values[np.newaxis] for name, values in outputs.items()})
