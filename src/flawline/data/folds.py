"""folds.csv: pictures with annotated boxes in folds, one of which is the test."""

from pathlib import Path

from flawline.data.sample import GOOD, Sample
from flawline.data.splits import Table, existing
from flawline.data.spreadsheet import read_rows
from flawline.data.voc import boxed, tell_clipped
from flawline.errors import DataError
from flawline_client.folders import shown

FOLDS_FILE = "folds.csv"
COLUMNS = ("image", "annotation", "class", "group", "fold")
"""`annotation` is an XML file as layout `voc` reads it, `group` may be empty; paths start at the file's folder."""


def read_folds(root: Path, fold: int) -> Table:
    """Read `root/folds.csv`, in the order of its rows; the pictures of one fold are the test, all others train.

    Raises:
        DataError: as `flawline.data.splits.read_table`; or a fold is no number, or there is none of that number.

    """
    path = root / FOLDS_FILE
    samples: list[Sample] = []
    folds: set[int] = set()
    seen: dict[Path, str] = {}
    clipped = 0
    for row in read_rows(path, COLUMNS):
        try:
            if not row.cells["fold"].isdecimal():
                msg = f"fold is '{shown(row.cells['fold'])}'; write a number from 0"
                raise DataError(msg)  # noqa: TRY301 - told with its place
            number = int(row.cells["fold"])
            image, annotation = existing(root, row.cells["image"]), existing(root, row.cells["annotation"])
            group = row.cells["group"] or image.relative_to(root).as_posix()
            sample, count = boxed(image, annotation, group)
        except DataError as error:
            msg = f"{row.place}: {error}{row.hint}"
            raise DataError(msg) from error
        if image in seen:
            msg = f"{row.place}: {shown(row.cells['image'])} is listed twice, also in {seen[image]}; keep one row"
            raise DataError(msg)
        seen[image] = row.place.rpartition(", ")[2]
        folds.add(number)
        clipped += count
        samples.append(_named(sample, row.cells["class"], test=number == fold))
    if fold not in folds:
        known = ", ".join(map(str, sorted(folds))) or "none"
        msg = f"{path} has no fold {fold}; give ,fold=N behind the path with one of its folds ({known})"
        raise DataError(msg)
    tell_clipped(clipped)
    return Table(
        tuple(samples), division=f"fold {fold} of {FOLDS_FILE}, which is the test", listed=True, boxed=True
    )


def _named(sample: Sample, name: str, *, test: bool) -> Sample:
    """The sample with the class that the file gives a picture with boxes, and its split."""
    named = shown(name) if name and sample.boxes else sample.defect_class
    if sample.boxes and named == GOOD:
        msg = f"{shown(sample.image)} is listed as good and has boxes; correct one of both"
        raise DataError(msg)
    return Sample(sample.image, named, None, sample.group, "test" if test else "train", boxes=sample.boxes)
