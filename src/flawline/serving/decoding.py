"""Decode the pictures of many requests at once; a bad one spoils only its own request."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import cv2
import numpy as np

from flawline.errors import PictureError
from flawline.memory import give_memory_back
from flawline.scoring.picture import EIGHT, Values, announced_pixels, check_size, decode
from flawline.serving import triton
from flawline.serving.checks import REQUEST_PIXELS

DEEP_PIXELS = "DEEP_PIXELS"
"""Input of stage `preprocess` for raw pixels in UINT16."""
LARGE_PIXELS = 1 << 24
"""Pixels decoded together after which memory is given back; that takes milliseconds."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Decoded = list[Values] | PictureError
"""The pictures of one request, or what is wrong with it."""


class Decoder:
    """Reads IMAGE or PIXELS of requests, with a pool of `threads` (Pillow and OpenCV release the GIL)."""

    def __init__(self, threads: int) -> None:
        cv2.setNumThreads(1)  # the pool is the parallelism
        self._pool = ThreadPoolExecutor(threads)

    def read(
        self,
        requests: Sequence[triton.Request],
        check: Callable[[Values], None] | None = None,
        *,
        bits: Sequence[int] | None = None,
    ) -> list[Decoded]:
        """Decode what each request sends.

        Args:
            requests: each sends one of its inputs.
            check: may raise PictureError for a picture.
            bits: bits that the pictures of each request fill; see flawline.scoring.picture.decode. None means 8.

        Returns:
            Pictures [H, W, 3] of each request, UINT8 or of more bits UINT16, or its PictureError.

        """
        jobs = [_bounded(self._pictures(request)) for request in requests]
        wanted = bits or [EIGHT] * len(jobs)
        flat = [
            (item, each)
            for job, each in zip(jobs, wanted, strict=True)
            if isinstance(job, list)
            for item in job
        ]
        results = iter(self.each(partial(_decode_or_error, check), flat))
        return [_gather([next(results) for _ in job]) if isinstance(job, list) else job for job in jobs]

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """What `work` makes of each item, on the threads of the pool; of one alone at once on this thread."""
        return list(self._pool.map(work, items)) if len(items) > 1 else [work(item) for item in items]

    def shares(self, requests: Sequence[triton.Request]) -> Iterator[list[triton.Request]]:
        """Cut a batch so that no more than REQUEST_PIXELS are decoded at once, but for a request alone."""
        share: list[triton.Request] = []
        total = 0
        for request in requests:
            pixels = self._announced_by(request)
            if share and total + pixels > REQUEST_PIXELS:
                yield share
                if total > LARGE_PIXELS:
                    give_memory_back()
                share, total = [], 0
            share.append(request)
            total += pixels
        yield share
        if total > LARGE_PIXELS:
            give_memory_back()

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
    def _pictures(request: triton.Request) -> list[bytes | Values] | PictureError:
        encoded = triton.optional_array(request, "IMAGE")
        raw = [triton.optional_array(request, name) for name in ("PIXELS", DEEP_PIXELS)]
        sent = [values for values in (encoded, *raw) if values is not None]
        if len(sent) == 1:
            return list(sent[0].ravel()) if encoded is not None else list(sent[0])
        return PictureError("send exactly one of IMAGE (an encoded file) and PIXELS ([H, W, 3])")


def _bounded(job: list[bytes | Values] | PictureError) -> list[bytes | Values] | PictureError:
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


def _announced(item: bytes | Values) -> int:
    """Pixels of a picture, encoded or not, as its header says; 0 where it is refused without being decoded."""
    return announced_pixels(item) if isinstance(item, bytes) else item.shape[0] * item.shape[1]


def _decode_or_error(
    check: Callable[[Values], None] | None, job: tuple[bytes | Values, int]
) -> Values | PictureError:
    item, bits = job
    try:
        pixels = decode(item, bits) if isinstance(item, bytes) else _checked(item, bits)
        if check is not None:
            check(pixels)
    except PictureError as error:
        return error
    return pixels


def _checked(pixels: Values, bits: int) -> Values:
    wanted = np.uint8 if bits == EIGHT else np.uint16
    if pixels.dtype != wanted:
        msg = f"PIXELS are {pixels.dtype}, and this line takes {np.dtype(wanted).name}"
        raise PictureError(msg)
    height, width, channels = pixels.shape
    if channels != 3:
        msg = f"PIXELS has {channels} channels; send RGB, shape [H, W, 3]"
        raise PictureError(msg)
    check_size(width, height)
    return pixels


def _gather(results: list[Values | PictureError]) -> Decoded:
    for number, result in enumerate(results, start=1):
        if isinstance(result, PictureError):
            place = f"picture {number} of {len(results)}: " if len(results) > 1 else ""
            return PictureError(f"{place}{result}")
    return [result for result in results if not isinstance(result, PictureError)]
