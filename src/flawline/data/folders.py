"""Finding pictures, masks and class names on disk, the same way for every layout."""

from collections.abc import Iterator
from pathlib import Path

from flawline.data.label import read_label
from flawline.data.sample import GOOD
from flawline.errors import DataError
from flawline_client.folders import made_by_a_tool, search, shown

NORMAL_NAMES = frozenset({GOOD, "ok", "normal", "free", "defect_free", "no_defect", "flawless"})
"""Class and folder names that public layouts and factories use for pictures without a defect."""


def class_name(name: str) -> str:
    """Return GOOD for any of NORMAL_NAMES, whatever their case; other names as `shown`, without outer spaces."""
    name = name.strip()
    plain = name.lower().replace("-", "_").replace(" ", "_")
    return GOOD if plain in NORMAL_NAMES else shown(name)


def find_pictures(folder: Path) -> list[Path]:
    """All pictures in a folder and below it, sorted by path.

    Links are followed. Hidden files, and what tools made, are left out; see flawline_client.folders.search.
    """
    return list(search(folder).pictures)


def subfolders(folder: Path) -> list[Path]:
    """Folders directly inside `folder`, sorted by name; hidden ones, and those that tools made, are left out."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not made_by_a_tool(path.name))


def relative_stem(path: Path, folder: Path) -> str:
    """Path below `folder` without the suffix, with forward slashes: what a picture and its mask share."""
    return path.relative_to(folder).with_suffix("").as_posix()


class MaskFolder:
    """The masks in a folder and below it, found by the relative stem of their picture.

    A mask may add `_mask` to the stem, and its suffix may differ from the picture's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._masks = {relative_stem(path, folder).removesuffix("_mask"): path for path in _masks_in(folder)}

    def of(self, picture: Path, stem: str) -> Path:
        """Return the mask of a picture. Raises DataError naming picture and mask when there is none."""
        if stem not in self._masks:
            expected = self.folder / f"{stem}.png"
            msg = (
                f"{picture} has no mask: {expected} (or {expected.stem}_mask.png) is missing; "
                "add it, all black if the defect has no pixels"
            )
            raise DataError(msg)
        return self._masks[stem]


def _masks_in(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from find_pictures(folder)


def mask_is_empty(mask: Path) -> bool:
    """Whether no pixel of a mask is set; one that cannot be read is not empty, and is refused with all others."""
    try:
        return not read_label(mask).any()
    except DataError:
        return False


def require_folder(folder: Path, layout: str, expected: str, category_mark: str) -> None:
    """Raise DataError unless `folder` exists below the data set's root.

    Args:
        folder: `root / category_mark`.
        layout: name of the layout, for the message.
        expected: what the layout looks like, for the message.
        category_mark: relative path by which a category folder is known, so that the parent of several
            categories is told apart and they are listed.

    """
    if folder.is_dir():
        return
    root = folder.parents[len(Path(category_mark).parts) - 1]
    categories = [path.name for path in subfolders(root) if (path / category_mark).is_dir()]
    if categories:
        msg = (
            f"{root} holds {len(categories)} categories ({', '.join(categories)}); a line is one of them: "
            f"{layout}:{root / categories[0]}"
        )
    else:
        msg = f"{root} is not laid out as {layout}: {category_mark}/ is missing (expected {expected})"
    raise DataError(msg)
