"""Damaged pictures and masks are found before anything is learnt, all at once."""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import cast

from PIL import Image, ImageFile

from flawline.data.label import check_marks_less
from flawline.data.sample import Sample
from flawline.errors import DataError, PictureError
from flawline.progress import say, track
from flawline.scoring.picture import FORMATS, check_size, decode, upright_size
from flawline_client.folders import shown

DECODED = 512 * 512
"""Pixels up to which a picture is decoded to see that it is whole; for larger ones that would take too long.

Of a larger JPEG file all data are read and an eighth of each side is drawn, of a PNG file the check sums are
compared, and of TIFF and BMP files it is seen that they hold as much as their headers say.
"""
_STRIPS, _STRIP_SIZES, _TILES, _TILE_SIZES = 273, 279, 324, 325
"""Tags of TIFF that say where the data lie and how many bytes they take."""
NAMED = 10
"""Files that are named at most."""


def check_sound(samples: Sequence[Sample], name: str) -> None:
    """Read each picture and mask once, in threads; pictures are let go again.

    Args:
        samples: pictures of every split.
        name: name of the data set, for the message.

    Raises:
        DataError: naming the first files that cannot be read, with the reason of each, and how many there are.

    """
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        read = list(track(pool.map(_look_at, samples), "checking pictures", total=len(samples)))
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C waits for none that has not begun
    faults = [each for each in read if isinstance(each, tuple)]
    if not faults:
        marks = [any_marked for any_marked in read if isinstance(any_marked, bool)]
        if len(marks) > 1 and not any(marks):
            say(f"All {len(marks)} masks of {name} are black: none marks where its defect is.")
        return
    paths: dict[str, list[Path]] = {}
    for path, why in faults[:NAMED]:
        paths.setdefault(why, []).append(path)
    named = "; ".join(f"{', '.join(map(shown, those))}: {why}" for why, those in paths.items())
    more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    files = sum(1 + (sample.mask is not None) for sample in samples)
    msg = (
        f"{len(faults)} of the {files} pictures and masks of {name} cannot be used; repair or remove them: "
        f"{named}{more}"
    )
    raise DataError(msg)


def _look_at(sample: Sample) -> tuple[Path, str] | bool | None:
    """Return the file that cannot be used, and why; or whether the mask marks anything, None without one."""
    try:
        shape = _shape(sample.image)
    except OSError as error:
        return sample.image, error.strerror or str(error)
    except PictureError as error:
        return sample.image, str(error)
    if sample.mask is None:
        return None
    try:
        label = sample.read_mask(*shape)
        check_marks_less(label, sample.mask)
    except DataError as error:
        return sample.mask, str(error).removeprefix(f"{shown(sample.mask)}: ")
    return bool(label.any())


def _shape(path: Path) -> tuple[int, int]:
    """Height and width of an upright picture that is whole. Raises OSError or PictureError."""
    content = path.read_bytes()
    # Whatever Pillow says here of any kind of damage, decoding decides and says it.
    with suppress(Exception), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > DECODED and image.mode != "F":
            check_size(*image.size)
            _look_through(image, len(content))
            width, height = upright_size(path)
            return height, width
    height, width = decode(content, None).shape[:2]
    return height, width


def _look_through(image: ImageFile.ImageFile, length: int) -> None:
    """See that a file of `length` bytes is whole, without decoding all of it. Raises what Pillow raises."""
    tags = getattr(image, "tag_v2", {})
    offsets = (*tags.get(_STRIPS, ()), *tags.get(_TILES, ()))
    sizes = (*tags.get(_STRIP_SIZES, ()), *tags.get(_TILE_SIZES, ()))
    if image.format == "PNG":
        image.verify()
        return
    if image.format == "TIFF" and offsets and len(offsets) == len(sizes):
        needed = max(offset + size for offset, size in zip(offsets, sizes, strict=True))
    elif image.format == "BMP" and image.tile[0].codec_name == "raw":
        _, stride, _ = cast(tuple[str, int, int], image.tile[0].args)
        needed = image.tile[0].offset + image.height * stride
    else:
        image.draft(None, (image.width // 8, image.height // 8))  # of JPEG alone; any other is decoded
        image.load()
        return
    if needed > length:
        msg = (
            f"the header says {needed} bytes, and the file holds {length}"  # which some cameras write wrongly
        )
        raise OSError(msg)
