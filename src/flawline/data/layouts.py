"""`LAYOUT:PATH` -> Dataset."""

from collections.abc import Callable
from pathlib import Path

from flawline.data import (
    btad,
    folder,
    kolektorsdd,
    kolektorsdd2,
    magnetic_tile,
    mpdd,
    mvtec_ad,
    surfaces,
    visa,
)
from flawline.data.depth import with_learnt_bits
from flawline.data.folders import class_name, find_pictures, subfolders
from flawline.data.sample import GOOD, Dataset, Sample
from flawline.data.splits import SPLIT_FILE, read_split
from flawline.errors import DataError

LAYOUTS: dict[str, Callable[..., tuple[Sample, ...]]] = {
    "folder": folder.load,
    "mvtec_ad": mvtec_ad.load,
    "btad": btad.load,
    "visa": visa.load,
    "mpdd": mpdd.load,
    "kolektorsdd": kolektorsdd.load,
    "kolektorsdd2": kolektorsdd2.load,
    "magnetic_tile": magnetic_tile.load,
}
"""Layouts on disk by name; each takes `root` and `seed`."""

SURFACES = "surfaces"


def load_dataset(spec: str, *, seed: int = 0) -> Dataset:
    """Load a line's pictures.

    Args:
        spec: `LAYOUT:PATH` with one of LAYOUTS, or `surfaces[:OPTIONS]` for a generated line. A split.csv in
            the folder wins over what the layout would read or draw.
        seed: draws the split of layouts that have none. A generated line has a seed among its options instead.

    Raises:
        DataError: the layout is not known, the path is no folder, there are no pictures or no normal ones to
            train on, one group lies in both splits, or what the layout itself refuses.

    """
    dataset = _read(spec, seed)
    _check(dataset)
    return with_learnt_bits(dataset)


def load_holdout(spec: str) -> tuple[Sample, ...]:
    """Load good pictures that were taken another day, on which a promise is tested.

    Args:
        spec: a folder, or `LAYOUT:PATH`, whose good pictures of either split are taken. Of a folder that holds
            good/, as layout `folder` does, its good pictures are taken; of any other, all pictures in it and below.

    Raises:
        DataError: there is no such folder, or no good picture in it.

    """
    layout, _, rest = spec.partition(":")
    if layout == SURFACES or (layout in LAYOUTS and rest):
        samples = _read(spec, 0).samples
    else:
        root = Path(spec).expanduser().resolve()
        if not root.is_dir():
            msg = f"{root} is not a folder; --holdout takes a folder of good pictures, or LAYOUT:PATH"
            raise DataError(msg)
        if (root / SPLIT_FILE).is_file():
            samples = read_split(root)
        elif _is_laid_out(root):
            samples = folder.load(root, seed=0)
        else:
            samples = tuple(Sample(path, GOOD, None, str(path), "test") for path in find_pictures(root))
    good = tuple(sample for sample in samples if not sample.is_defect)
    if not good:
        msg = f"{spec} holds no good picture; --holdout tests the promise on good pictures taken another day"
        raise DataError(msg)
    return good


def _is_laid_out(root: Path) -> bool:
    """Whether a folder holds good/ or defect*/, itself or in train/ or test/."""
    places = [place for place in (root, root / "train", root / "test") if place.is_dir()]
    names = [path.name for place in places for path in subfolders(place)]
    return any(class_name(name) == GOOD or name.lower().startswith("defect") for name in names)


def _read(spec: str, seed: int) -> Dataset:
    """Read what `load_dataset` takes, without a look at what is in it."""
    layout, _, rest = spec.partition(":")
    if layout == SURFACES:
        options = surfaces.SurfaceOptions.parse(rest)
        root, samples = surfaces.load(options)
        return Dataset(options.spec(), root, samples)
    if layout not in LAYOUTS or not rest:
        known = ", ".join([SURFACES, *LAYOUTS])
        msg = (
            f"'{spec}' names no data set; write LAYOUT:PATH, layout one of {known} ({SURFACES} takes no path)"
        )
        raise DataError(msg)
    root = Path(rest).expanduser().resolve()
    if not root.is_dir():
        msg = f"{root} is not a folder; give the folder that holds the pictures of layout {layout}"
        raise DataError(msg)
    samples = read_split(root) if (root / SPLIT_FILE).is_file() else LAYOUTS[layout](root, seed=seed)
    return Dataset(f"{layout}:{root.name}", root, samples)


def _check(dataset: Dataset) -> None:
    if not dataset.samples:
        layout = dataset.name.partition(":")[0]
        msg = f"{dataset.root} holds no pictures where layout {layout} expects them; check path and layout"
        raise DataError(msg)
    if not dataset.train_normals:
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
