"""Shared stage: an encoded or raw picture becomes the model square. One process for all lines.

Lines differ in the size of their square: each has an output of its own, and a line's ensemble maps the one it
needs. Lines with windows take the picture as it is, and cut it themselves. Only outputs that are asked for are
made.
"""

import numpy as np

from flawline.errors import PictureError
from flawline.scoring.picture import EIGHT, MOST_BITS, letterbox
from flawline.serving import triton
from flawline.serving.decoding import Decoder

DEEP = "DEEP_"


class TritonPythonModel:
    """IMAGE BYTES [1] or PIXELS UINT8 [H, W, 3] -> PICTURE_<S> UINT8 [S, S, 3] and GEOMETRY INT32 [2].

    PICTURE UINT8 [H, W, 3] is the decoded picture; those of one request must have one shape. Lines whose pictures
    fill more than eight bits take DEEP_PICTURE_<S> or DEEP_PICTURE, UINT16, of IMAGE or of DEEP_PIXELS UINT16.
    """

    def initialize(self, args):
        self.decoder = Decoder(triton.threads(args))

    def execute(self, requests):
        return [
            response
            for share in self.decoder.shares(requests)
            for response in triton.together(self.respond_all, share)
        ]

    def respond_all(self, requests):
        wanted = [pictures_wanted(request) for request in requests]
        bits = [MOST_BITS if DEEP in "".join(names) else EIGHT for names in wanted]
        pictures = self.decoder.read(requests, bits=bits)
        return [self.respond(*each) for each in zip(wanted, pictures, strict=True)]

    def respond(self, wanted, pictures):
        if isinstance(pictures, PictureError):
            return triton.refuse(str(pictures))
        whole = [name for name in wanted if name.removeprefix(DEEP) == "PICTURE"]
        if whole and len({pixels.shape for pixels in pictures}) > 1:
            return triton.refuse(
                "the pictures of one request differ in shape; send each in a request of its own"
            )
        sizes = {name: name.rpartition("_")[2] for name in wanted if name not in whole}
        outputs = {
            name: np.stack([letterbox(pixels, int(size))[0] for pixels in pictures])
            for name, size in sizes.items()
        }
        outputs |= {name: np.stack(pictures) for name in whole}
        geometry = np.array([(p.shape[1], p.shape[0]) for p in pictures], dtype=np.int32)
        return triton.answer(**outputs, GEOMETRY=geometry)

    def finalize(self):
        self.decoder.close()


def pictures_wanted(request):
    """Names of the pictures to make; the deep ones only where nothing else is asked for."""
    names = [name for name in request.requested_output_names() if "PICTURE" in name]
    return [name for name in names if not name.startswith(DEEP)] or names
