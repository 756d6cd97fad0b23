"""What the fixture `published` hands out, and the pictures it is made from."""

from dataclasses import dataclass
from pathlib import Path

from flawline.data import Dataset
from flawline.data.surfaces import SurfaceOptions, load
from flawline.jobs.release import ReleasedLine
from flawline.repository.names import discrepancy

SIZE, LARGER = 128, 192
_QUICK = {"synthesis": "cutpaste", "training": {"steps": 4, "pairs": 2, "crop": 64}}
BUILTIN = {"teacher": "builtin"}
"""Half the time of the default teacher, for each picture and to export; `woven` and the documents have that one."""
LEARNT = {
    **BUILTIN,
    "false_alarm": 0.1,
    "parity_pictures": 8,
    "sacd": _QUICK,
    "ddpm_ast": _QUICK,
    "segmenter": _QUICK,
}
"""Students that have hardly learnt: what they answer means little, but must be answered alike by every path."""


@dataclass(frozen=True)
class Published:
    """A repository with some lines, and the pictures they were built from."""

    repository: Path
    built: dict[str, ReleasedLine]
    data: dict[str, Dataset]

    def artefact(self, line: str) -> Path:
        return self.repository / discrepancy(line) / str(self.built[line].manifest.version)


def draw(family: str, folder: Path, *, normals: int = 40, tested: int = 8) -> Dataset:
    options = SurfaceOptions(
        family=family,
        size=(SIZE, SIZE),
        normals=normals,
        test_normals=tested,
        test_defects=tested,
        train_defects=4,
        contrast=3.0,
        scale=2.0,
    )
    return Dataset(options.spec(), *load(options, cache=folder))
