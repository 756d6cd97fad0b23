"""Which pictures in a folder are used, and why the others are not: none is left out without a word."""

import re
from collections.abc import Iterable
from pathlib import Path

from flawline.data.sample import COPIES
from flawline_client.folders import LeftOut, identity, search

UNLISTED = "not listed in split.csv"
UNANNOTATED = "without an annotation"
ELSEWHERE = "in no folder that the layout reads"
MASKS = "masks of no defect that is used"
"""Why a picture is left out that a search finds."""

MASK_FOLDERS = frozenset({"masks", "ground_truth"})
"""In lower case."""
_MASK_ENDING = re.compile(r"_(mask|label|gt)$", re.IGNORECASE)


def left_out(
    root: Path,
    used: Iterable[Path],
    *,
    copies: Iterable[Path] = (),
    masks: Iterable[Path] = (),
    listed: bool = False,
    boxed: bool = False,
) -> tuple[LeftOut, ...]:
    """Say of every picture in a folder and below it that is not used why it is not.

    Args:
        root: the folder.
        used: pictures that are used, as images or masks.
        copies: copies of used pictures.
        masks: masks of good pictures, which are known and not needed.
        listed: whether a split.csv or folds.csv names the pictures.
        boxed: whether annotations name them.

    Raises:
        OSError: a folder cannot be read.

    """
    used, copies = tuple(used), tuple(copies)
    known = {identity(path) for path in (*used, *copies, *masks)}
    stems = {path.with_suffix("") for path in used}
    found = search(root)
    others = [
        LeftOut(path, _why(path.relative_to(root), listed=listed, boxed=boxed))
        for path in found.pictures
        if identity(path) not in known and (listed or not _is_mask_beside(path, stems))
    ]
    copied = (LeftOut(path, COPIES) for path in copies)
    return tuple(sorted((*copied, *others, *found.left_out), key=lambda each: each.path))


def _why(path: Path, *, listed: bool, boxed: bool) -> str:
    if _MASK_ENDING.search(path.stem) or any(part.lower() in MASK_FOLDERS for part in path.parts[:-1]):
        return MASKS
    if boxed:
        return UNANNOTATED
    return UNLISTED if listed else ELSEWHERE


def _is_mask_beside(path: Path, stems: set[Path]) -> bool:
    """Whether a picture is the mask of a good one that lies beside it, as public data sets have them."""
    marked = _MASK_ENDING.sub("", path.stem)
    return path.with_name(marked) in stems and (marked != path.stem or path.suffix.lower() == ".png")
