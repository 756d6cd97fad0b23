"""What the fixture `published` hands out, and the pictures it is made from."""

from dataclasses import dataclass
from pathlib import Path

from flawline.build import BuiltLine
from flawline.data import Dataset
from flawline.data.surfaces import SurfaceOptions, load

SIZE = 128


@dataclass(frozen=True)
class Published:
    """A repository with the lines `woven` and `metal`, and the pictures they were built from."""

    repository: Path
    built: dict[str, BuiltLine]
    data: dict[str, Dataset]

    def artefact(self, line: str) -> Path:
        return self.built[line].folder


def draw(family: str, folder: Path) -> Dataset:
    options = SurfaceOptions(
        family=family,
        size=(SIZE, SIZE),
        normals=40,
        test_normals=8,
        test_defects=8,
        train_defects=4,
        contrast=3.0,
        scale=2.0,
    )
    return Dataset(options.spec(), *load(options, cache=folder))
