"""Layout `voc`: boxes in one XML file a picture, as PASCAL VOC has them (Everingham et al. 2010), and many tools.

The XML lies beside its picture, or in Annotations/ where the pictures are in JPEGImages/ or Images/; case does not
matter. A picture whose XML names no object is good. A folds.csv divides the pictures; without one, a seed does.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flawline.data.boxes import Box, class_of, fitted
from flawline.data.folders import find_pictures, relative_stem
from flawline.data.sample import GOOD, Sample
from flawline.data.splits import split_by_group
from flawline.errors import DataError, PictureError
from flawline.progress import say
from flawline.scoring.picture import upright_size
from flawline_client.folders import shown

ANNOTATIONS = ("annotations", "annotation", "lable", "label", "labels", "xml", "xmls")
"""Folders of annotations, in lower case; `lable` is how GC10-DET spells it."""
MOST_BYTES = 1 << 24
"""Of an annotation; larger ones are none."""
TRAIN_SHARE = 0.8
"""Of the pictures of each class, where a split is drawn: boxes are learnt from labelled defects alone."""
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def load(root: Path, *, seed: int = 0) -> tuple[Sample, ...]:
    """Read all pictures below `root` that have an annotation.

    A box that reaches over the picture's edge is clipped, and told. A picture without an annotation is left out.

    Raises:
        DataError: an annotation cannot be read, has no picture, or has a box without area, outside the picture or
            without a class.

    """
    return split_by_group(read_pairs(root), seed, defect_share=TRAIN_SHARE)


Renamed = Callable[[list[Box], Path], list[Box]]
"""Gives the boxes of an annotation with other names, or some of them."""


def read_pairs(root: Path, renamed: Renamed | None = None) -> list[Sample]:
    """Find all pictures below `root` with an annotation; all in split train. Raises DataError as `load`."""
    annotations = annotations_in(root)
    samples, used, clipped = [], set[Path](), 0
    for picture in find_pictures(root):
        annotation = _annotation_of(picture, annotations)
        if annotation is None:
            continue
        used.add(annotation)
        raw = read_annotation(annotation)
        boxes = raw if renamed is None else renamed(raw, annotation)
        sample, count = labelled_sample(picture, boxes, annotation, relative_stem(picture, root))
        samples.append(sample)
        clipped += count
    missing = [path for paths in annotations.values() for path in paths if path not in used]
    if missing:
        msg = f"{shown(missing[0])} annotates no picture of that name; restore it, or remove the annotation"
        raise DataError(msg)
    tell_clipped(clipped)
    return samples


def annotations_in(root: Path) -> dict[str, list[Path]]:
    """All XML files below `root` by the stem of their name."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() == ".xml" and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    return found


def _annotation_of(picture: Path, annotations: Mapping[str, Sequence[Path]]) -> Path | None:
    """The annotation beside a picture, or that of its name in a folder of annotations; None where there is none."""
    same = annotations.get(picture.stem, ())
    for path in same:
        if path.parent == picture.parent:
            return path
    folders = [path for path in same if path.parent.name.lower() in ANNOTATIONS]
    return folders[0] if folders else None


def boxed(picture: Path, annotation: Path, group: str) -> tuple[Sample, int]:
    """Make a sample, in split train, of a picture and its annotation, and count the boxes that were clipped."""
    return labelled_sample(picture, read_annotation(annotation), annotation, group)


def labelled_sample(picture: Path, raw: list[Box], source: Path, group: str) -> tuple[Sample, int]:
    """Make a sample, in split train, of a picture and its boxes, and count the boxes that were clipped.

    Args:
        picture: the picture; its size is read from its header.
        raw: its boxes; without any it is good.
        source: file that they are from, for messages.
        group: item that it shows.

    Raises:
        DataError: the size cannot be read, or a box is wrong as `flawline.data.boxes.fitted` says.

    """
    try:
        width, height = upright_size(picture)
    except PictureError as error:
        msg = f"{shown(picture)}: {error}"
        raise DataError(msg) from error
    place = f"{shown(source)}, {shown(picture.name)}"
    fits = [fitted(box, width, height, f"{place}, object {number}") for number, box in enumerate(raw, 1)]
    boxes = tuple(box for box, _ in fits)
    name = class_of(boxes) if boxes else GOOD
    return Sample(picture, name, None, group, "train", boxes=boxes), sum(cut for _, cut in fits)


def tell_clipped(count: int) -> None:
    """Say how many boxes were clipped, if any."""
    if count:
        say(f"Boxes that reach over the edge of their picture and were clipped to it: {count}.")


def read_annotation(path: Path) -> list[Box]:
    """Read the objects of an XML file. Their corners count pixels from 1 and include the last, which is undone.

    Raises:
        DataError: the file cannot be read, or an object lacks its name or a number of its box.

    """
    try:
        content = path.read_bytes()
        # A file of this kind needs no entities; they can blow up a few bytes to gigabytes.
        if len(content) > MOST_BYTES or re.search(rb"<!(DOCTYPE|ENTITY)", content):
            msg = "it is too large, or declares entities"
            raise ValueError(msg)  # noqa: TRY301 - told with all other faults
        root = ElementTree.fromstring(content)  # noqa: S314 - see above
        boxes = []
        for found in root.iter("object"):
            left, upper, right, lower = (float(found.findtext(f"bndbox/{side}") or "nan") for side in _SIDES)
            name = " ".join((found.findtext("name") or "").split())
            boxes.append(Box(name, left - 1, upper - 1, right, lower))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        msg = f"{shown(path)}: the annotation cannot be read ({error}); repair it, or remove it with its picture"
        raise DataError(msg) from error
    return boxes
