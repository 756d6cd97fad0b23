"""Training splits of the real sets, split again, to choose settings by: `python benchmarks/accuracy/held_out.py`.

No test picture is in them. Some of the training items teach; the good pictures of the others and the labelled
defects of the training split become the test pictures of a smaller data set, to which any command of `flawline` can
be pointed. A defect on an item that teaches is left out: its good pictures are known.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from common import HELD_OUT, ROOT, real_sets

from flawline.data import Sample, load_dataset
from flawline.data.splits import SPLIT_FILE, write_split

SHARE = 0.6
"""Of the training items with good pictures: these teach."""
PICTURES = "pictures"
"""Link to the set's own folder; a split.csv names nothing outside its folder."""


def split_again(normals: Sequence[Sample], defects: Sequence[Sample], seed: int) -> list[Sample]:
    """Training samples with a split of their own, whole items at a time; `seed` draws the items that teach."""
    items = sorted({sample.group for sample in normals})
    taught = {
        str(item) for item in np.random.default_rng(seed).permutation(items)[: round(SHARE * len(items))]
    }
    good = [replace(sample, split="train" if sample.group in taught else "test") for sample in normals]
    return good + [replace(sample, split="test") for sample in defects if sample.group not in taught]


def write_held_out(spec: str, seed: int, folder: Path) -> None:
    """Write `folder/split.csv` for the training pictures of the data set `spec` (`LAYOUT:PATH`)."""
    layout, _, path = spec.partition(":")
    root = Path(path).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / PICTURES
    if link.is_symlink():  # an earlier run made this folder
        link.unlink()
        (folder / SPLIT_FILE).unlink(missing_ok=True)
    link.symlink_to(root)
    dataset = load_dataset(f"{layout}:{root}", seed=0)
    again = split_again(dataset.train_normals, dataset.train_defects, seed)
    write_split(folder, [_moved(sample, root, link) for sample in again])


def _moved(sample: Sample, root: Path, link: Path) -> Sample:
    mask = sample.mask and link / sample.mask.relative_to(root)
    return replace(sample, image=link / sample.image.relative_to(root), mask=mask)


def main(
    data_root: Annotated[Path, typer.Option(help="Folder with magnetic_tile/ and kolektorsdd/.")] = Path(
        "data"
    ),
    seeds: Annotated[str, typer.Option(help="Seeds that draw the items that teach.")] = "0,1,2",
) -> None:
    """Write out/held_out/SET-SEED for each real set and seed."""
    for spec in real_sets(ROOT / data_root):
        for seed in map(int, seeds.split(",")):
            write_held_out(spec, seed, HELD_OUT / f"{spec.partition(':')[0]}-{seed}")


if __name__ == "__main__":
    typer.run(main)
