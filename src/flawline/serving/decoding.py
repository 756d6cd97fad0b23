"""Decode the pictures of many requests at once; a bad one spoils only its own request."""

import ctypes
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
from PIL import Image

from flawline.errors import PictureError
from flawline.scoring.picture import FORMATS, Pixels, check_size, decode
from flawline.serving import triton
from flawline.serving.checks import REQUEST_PIXELS

LARGE_PIXELS = 1 << 24
"""Pixels decoded together after which memory is given back; that takes milliseconds."""
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""Of glibc; other C libraries keep less."""

Decoded = list[Pixels] | PictureError
"""The pictures of one request, or what is wrong with it."""


class Decoder:
    """Reads IMAGE or PIXELS of requests, with a pool of `threads` (Pillow and OpenCV release the GIL)."""

    def __init__(self, threads: int) -> None:
        cv2.setNumThreads(1)  # the pool is the parallelism
        self._pool = ThreadPoolExecutor(threads)

    def read(
        self, requests: Sequence[triton.Request], check: Callable[[Pixels], None] | None = None
    ) -> list[Decoded]:
        """Pictures UINT8 [H, W, 3] of each request, or its PictureError; `check` may raise one for a picture."""
        jobs = [_bounded(self._pictures(request)) for request in requests]
        flat = [item for job in jobs if isinstance(job, list) for item in job]
        results = iter(list(self._pool.map(partial(_decode_or_error, check), flat)))
        return [_gather([next(results) for _ in job]) if isinstance(job, list) else job for job in jobs]

    def shares(self, requests: Sequence[triton.Request]) -> Iterator[list[triton.Request]]:
        """Cut a batch so that no more than REQUEST_PIXELS are decoded at once, but for a request alone."""
        share: list[triton.Request] = []
        total = 0
        for request in requests:
            pixels = self._announced_by(request)
            if share and total + pixels > REQUEST_PIXELS:
                yield share
                _give_back(total)
                share, total = [], 0
            share.append(request)
            total += pixels
        yield share
        _give_back(total)

    def _announced_by(self, request: triton.Request) -> int:
        try:
            job = self._pictures(request)
        except Exception:  # `read` meets it again, and then it is this request's alone
            return 0
        return sum(map(_announced, job)) if isinstance(job, list) else 0

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    @staticmethod
    def _pictures(request: triton.Request) -> list[bytes | Pixels] | PictureError:
        encoded, raw = triton.optional_array(request, "IMAGE"), triton.optional_array(request, "PIXELS")
        if encoded is not None and raw is None:
            return list(encoded.ravel())
        if raw is not None and encoded is None:
            return list(raw)
        return PictureError("send exactly one of IMAGE (an encoded file) and PIXELS (UINT8 [H, W, 3])")


def _give_back(pixels: int) -> None:
    """Return to the system what large pictures took: glibc would keep the blocks that Pillow frees."""
    if pixels > LARGE_PIXELS and _trim is not None:
        _trim(0)


def _bounded(job: list[bytes | Pixels] | PictureError) -> list[bytes | Pixels] | PictureError:
    """Refuse the pictures of one request that are too large together, before any is decoded."""
    if isinstance(job, PictureError) or len(job) == 1:
        return job
    total = sum(map(_announced, job))
    if total > REQUEST_PIXELS:
        return PictureError(
            f"the {len(job)} pictures of the request have {total} pixels together, over the limit of "
            f"{REQUEST_PIXELS}; send each in a request of its own"
        )
    return job


def _announced(item: bytes | Pixels) -> int:
    """Pixels of a picture, encoded or not, as its header says; 0 where it is refused without being decoded."""
    if not isinstance(item, bytes):
        return item.shape[0] * item.shape[1]
    try:
        with Image.open(io.BytesIO(item), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # Pillow's readers raise errors of any kind; `decode` says what is wrong
        return 0


def _decode_or_error(check: Callable[[Pixels], None] | None, item: bytes | Pixels) -> Pixels | PictureError:
    try:
        pixels = decode(item) if isinstance(item, bytes) else _checked(item)
        if check is not None:
            check(pixels)
    except PictureError as error:
        return error
    return pixels


def _checked(pixels: Pixels) -> Pixels:
    height, width, channels = pixels.shape
    if channels != 3:
        msg = f"PIXELS has {channels} channels; send RGB, shape [H, W, 3]"
        raise PictureError(msg)
    check_size(width, height)
    return pixels


def _gather(results: list[Pixels | PictureError]) -> Decoded:
    for number, result in enumerate(results, start=1):
        if isinstance(result, PictureError):
            place = f"picture {number} of {len(results)}: " if len(results) > 1 else ""
            return PictureError(f"{place}{result}")
    return [result for result in results if not isinstance(result, PictureError)]
