"""The Triton model of a whole line: no copies between stages, one process a line."""

from collections.abc import Sequence
from pathlib import Path

import cv2

from flawline.artefact.served import ServedLine
from flawline.errors import PictureError
from flawline.repository.names import discrepancy
from flawline.serving import triton
from flawline.serving.answers import respond
from flawline.serving.decoding import Decoder


class FusedModel:
    """IMAGE BYTES [1] or PIXELS UINT8 or UINT16 [H, W, 3] -> the output tensors of a line."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load and verify the artefact of the line."""
        here = Path(args["model_repository"])
        artefact = (
            here.parent / discrepancy(args["model_name"].removesuffix("_fused")) / args["model_version"]
        )
        self.decoder = Decoder(triton.threads(args))
        self.line = ServedLine(artefact, threads=triton.threads(args))
        cv2.setNumThreads(1)

    def execute(self, requests: list[triton.Request]) -> list[triton.Response]:
        """Judge the pictures of all requests that can be read; the others are refused."""
        return [
            response
            for share in self.decoder.shares(requests)
            for response in triton.together(self._judge, share)
        ]

    def _judge(self, requests: Sequence[triton.Request]) -> list[triton.Response]:
        bits = [self.line.rules.settings.bits] * len(requests)
        pictures = self.decoder.read(requests, self.line.check, bits=bits)
        good = [p for p in pictures if not isinstance(p, PictureError)]
        verdicts = iter(self.line.inspect([pixels for request in good for pixels in request]) if good else [])
        return [
            triton.refuse(str(p)) if isinstance(p, PictureError) else respond([next(verdicts) for _ in p])
            for p in pictures
        ]

    def finalize(self) -> None:
        """Stop the threads."""
        self.decoder.close()
