"""The Triton model of a whole line: no copies between stages, one process a line."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2

from flawline.artefact.served import ServedLine, Sight
from flawline.errors import PictureError
from flawline.repository.names import discrepancy
from flawline.scoring.verdict import Ruling
from flawline.serving import triton
from flawline.serving.answers import respond, shows, wanted_by
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
        wanted = [wanted_by(request) for request in requests]
        asked = [
            (pixels, self.line.judge if shows(names) else self.line.rule)
            for names, read in zip(wanted, pictures, strict=True)
            if not isinstance(read, PictureError)
            for pixels in read
        ]
        sights = self.line.look([pixels for pixels, _ in asked]) if asked else []
        ruled = self.decoder.each(
            _ruled, [(rule, sight) for (_, rule), sight in zip(asked, sights, strict=True)]
        )
        rulings = iter(ruled)
        return [
            triton.refuse(str(read))
            if isinstance(read, PictureError)
            else respond([next(rulings) for _ in read], names)
            for names, read in zip(wanted, pictures, strict=True)
        ]

    def finalize(self) -> None:
        """Stop the threads."""
        self.decoder.close()


def _ruled(asked: tuple[Callable[[Sight], Ruling], Sight]) -> Ruling:
    rule, sight = asked
    return rule(sight)
