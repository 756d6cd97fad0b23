"""`LAYOUT:PATH` -> Dataset."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flawline.data import (
    btad,
    coco,
    folder,
    gc10_det,
    kolektorsdd,
    kolektorsdd2,
    magnetic_tile,
    mpdd,
    mvtec_ad,
    neu_det,
    surfaces,
    tianchi_fabric,
    visa,
    voc,
)
from flawline.data.account import left_out
from flawline.data.copies import Distinct, distinct
from flawline.data.depth import with_bits_of_line, with_learnt_bits
from flawline.data.folders import class_name, find_pictures, subfolders
from flawline.data.folds import FOLDS_FILE, read_folds
from flawline.data.sample import COPIES, GOOD, Dataset, Sample
from flawline.data.soundness import check_sound
from flawline.data.splits import SPLIT_FILE, Table, read_table
from flawline.errors import DataError
from flawline.progress import say
from flawline_client.folders import LeftOut, shown, tell

LAYOUTS: dict[str, Callable[..., tuple[Sample, ...]]] = {
    "folder": folder.load,
    "mvtec_ad": mvtec_ad.load,
    "btad": btad.load,
    "visa": visa.load,
    "mpdd": mpdd.load,
    "kolektorsdd": kolektorsdd.load,
    "kolektorsdd2": kolektorsdd2.load,
    "magnetic_tile": magnetic_tile.load,
    "voc": voc.load,
    "coco": coco.load,
    "neu_det": neu_det.load,
    "gc10_det": gc10_det.load,
    "tianchi_fabric": tianchi_fabric.load,
}
"""Layouts on disk by name; each takes `root` and `seed`."""

DRAWN = frozenset({"folder", "kolektorsdd", "magnetic_tile"})
"""Layouts whose split is drawn by a seed."""

BOXED = frozenset({"voc", "coco", "neu_det", "gc10_det", "tianchi_fabric"})
"""Layouts with boxes, which may be without good pictures. A folds.csv wins over what they would read or draw."""

SURFACES = "surfaces"


def load_dataset(spec: str, *, seed: int = 0, known: bool = False, bits: int | None = None) -> Dataset:
    """Load a line's pictures, and say how many are used, and which are left out and why.

    Args:
        spec: `LAYOUT:PATH` with one of LAYOUTS, or `surfaces[:OPTIONS]` for a generated line. A split.csv in
            the folder wins over what the layout would read or draw, and so does a folds.csv for those of BOXED, of
            which `LAYOUT:PATH,fold=N` makes fold N the test; without it, fold 0 is.
        seed: draws the split of layouts that have none. A generated line has a seed among its options instead.
        known: whether the same pictures were loaded before, with another seed: nothing is said or checked again.
        bits: those that the pictures of the line fill for which these are; None learns them. See data.depth.

    Raises:
        DataError: the layout is not known, the path is no folder or cannot be read, there are no pictures or no
            normal ones to train on, one group or picture lies in both splits, a picture or mask is damaged, or what
            the layout itself refuses.

    """
    layout, _, rest = spec.partition(":")
    if layout == SURFACES:
        options = surfaces.SurfaceOptions.parse(rest)
        dataset = Dataset(options.spec(), *surfaces.load(options))
        _check(dataset)
        return dataset
    rest, fold = _without_fold(layout, rest)
    root = _root(layout, rest, spec)
    with _readable():
        table = _read(root, layout, seed, fold)
        kept = distinct(table.samples)
        dataset = Dataset(
            f"{layout}:{shown(root.name)}", root, kept.samples, _left_out(root, table, kept), table.division
        )
    if not known and dataset.samples:  # where there are none, the error says what was left out
        say(dataset.account)
    _check(dataset)
    if not known:
        if kept.staying:
            say(
                f"Exact copies among those used, as one item each or as defects of two classes: {kept.staying}."
            )
        check_sound(dataset.samples, dataset.name)
    return with_learnt_bits(dataset, tell=not known) if bits is None else with_bits_of_line(dataset, bits)


def load_holdout(spec: str) -> tuple[Sample, ...]:
    """Load good pictures that were taken another day, on which a promise is tested, and say which are used.

    Args:
        spec: a folder, or `LAYOUT:PATH`, whose good pictures of either split are taken. Of a folder that holds
            good/, as layout `folder` does, its good pictures are taken; of any other, all pictures in it and below.

    Raises:
        DataError: there is no such folder, it cannot be read, it holds no good picture, or one is damaged.

    """
    layout, _, rest = spec.partition(":")
    if layout == SURFACES:
        return _good(surfaces.load(surfaces.SurfaceOptions.parse(rest))[1], spec)
    named = layout in LAYOUTS and bool(rest)
    rest, fold = _without_fold(layout, rest)
    if named:
        root = _root(layout, rest, spec)
    else:
        layout = "folder"
        root = _folder(spec, "--holdout takes a folder of good pictures, or LAYOUT:PATH")
    with _readable():
        if named or (root / SPLIT_FILE).is_file() or _is_laid_out(root):
            table = _read(root, layout, 0, fold)
        else:
            table = Table(tuple(Sample(path, GOOD, None, str(path), "test") for path in find_pictures(root)))
        good = _good(table.samples, spec)
        kept = distinct(good, sides=False)
        masks = tuple(path for sample in table.samples for path in (sample.image, sample.mask) if path)
        known = Table(table.samples, (*table.masks, *masks), listed=table.listed)
        held_out = Dataset(
            f"the hold-out {shown(root.name)}", root, kept.samples, _left_out(root, known, kept)
        )
    say(held_out.account)
    check_sound(kept.samples, held_out.name)
    return kept.samples


def _good(samples: Sequence[Sample], spec: str) -> tuple[Sample, ...]:
    good = tuple(sample for sample in samples if not sample.is_defect)
    if not good:
        msg = f"{spec} holds no good picture; --holdout tests the promise on good pictures taken another day"
        raise DataError(msg)
    return good


@contextmanager
def _readable() -> Iterator[None]:
    """Name the folder or file that cannot be read."""
    try:
        yield
    except OSError as error:
        name = shown(error.filename or "the folder")
        msg = f"{name} cannot be read ({error.strerror}); mend its permissions, or move it away"
        raise DataError(msg) from error


def _left_out(root: Path, table: Table, kept: Distinct) -> tuple[LeftOut, ...]:
    used = [path for sample in kept.samples for path in (sample.image, sample.mask) if path]
    # The mask of a copy is that of a picture which is used.
    masks = (*table.masks, *(copy.mask for copy in kept.copies if copy.mask))
    return left_out(
        root,
        used,
        copies=[copy.image for copy in kept.copies],
        masks=masks,
        listed=table.listed,
        boxed=table.boxed,
    )


def _is_laid_out(root: Path) -> bool:
    """Whether a folder holds good/ or defect*/, itself or in train/ or test/."""
    places = [place for place in (root, root / "train", root / "test") if place.is_dir()]
    names = [path.name for place in places for path in subfolders(place)]
    return any(class_name(name) == GOOD or name.lower().startswith("defect") for name in names)


def _root(layout: str, rest: str, spec: str) -> Path:
    """Folder of the pictures of a spec. Raises DataError where the spec is wrong, or there is no such folder."""
    if layout not in LAYOUTS or not rest:
        known = ", ".join([SURFACES, *LAYOUTS])
        msg = (
            f"'{spec}' names no data set; write LAYOUT:PATH, layout one of {known} ({SURFACES} takes no path)"
        )
        raise DataError(msg)
    return _folder(rest, f"give the folder that holds the pictures of layout {layout}")


def _folder(path: str, cure: str) -> Path:
    """Return the folder of a path. Raises DataError, with the cure, where there is none."""
    root = Path(path).expanduser()
    with _readable():
        if not root.is_dir():
            msg = f"{shown(root)} is not a folder; {cure}"
            raise DataError(msg)
    return root.resolve()


def _without_fold(layout: str, rest: str) -> tuple[str, int | None]:
    """Split `PATH,fold=N` of a layout with boxes into the path and the number; None where none is given."""
    found = re.fullmatch(r"(.*),fold=(\d{1,6})", rest, re.DOTALL) if layout in BOXED else None
    return (found[1], int(found[2])) if found else (rest, None)


def _read(root: Path, layout: str, seed: int, fold: int | None = None) -> Table:
    """Read a folder by its split.csv or folds.csv, or as its layout does."""
    if layout in BOXED and (root / FOLDS_FILE).is_file():
        return read_folds(root, fold or 0)
    if fold is not None:
        msg = f"{shown(root)} has no {FOLDS_FILE}, which ,fold={fold} asks for; leave it out"
        raise DataError(msg)
    if (root / SPLIT_FILE).is_file():
        return read_table(root)
    samples = LAYOUTS[layout](root, seed=seed)
    division = "the data set's own split"
    if layout in BOXED:
        division = (
            f"the names of its files, or the draw of a split, which gives {voc.TRAIN_SHARE:.0%} of the defects of "
            "a class and 60 % of the good pictures to training"
        )
    if layout in DRAWN:
        division = "the draw of a split, which gives 60 % of the good pictures to training"
    if layout == "folder" and (root / "train").is_dir():
        division = "its folders train/ and test/"
    return Table(samples, division=division, boxed=layout in BOXED)


def _check(dataset: Dataset) -> None:
    good = [sample for sample in dataset.samples if not sample.is_defect]
    copies = sum(each.why == COPIES for each in dataset.left_out)
    if len(good) == 1 and copies:
        msg = (
            f"the good pictures of {dataset.name} do not differ: all are exact copies of {shown(good[0].image)}; "
            "give pictures of different items, as the camera sees them"
        )
        raise DataError(msg)
    if not dataset.samples:
        layout = dataset.name.partition(":")[0]
        msg = f"{dataset.root} holds no pictures where layout {layout} expects them; check path and layout"
        if dataset.left_out:
            msg += f". It does hold, and leaves out: {tell(dataset.left_out, dataset.root)}"
        raise DataError(msg)
    if not dataset.train_normals and not dataset.classes:
        msg = (
            f"{dataset.root} has no normal pictures to train on; a line is learned from what is good: "
            "put them where the layout expects them, or mark them train in split.csv"
        )
        raise DataError(msg)
    split_of: dict[str, str] = {}
    for sample in dataset.samples:
        if split_of.setdefault(sample.group, sample.split) != sample.split:
            msg = (
                f"{dataset.root}: group '{sample.group}' lies in train and in test ({sample.image}); "
                "move it wholly to one side, or the test would measure memory"
            )
            raise DataError(msg)
