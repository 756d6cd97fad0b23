"""What the scripts of this folder share: where results lie, which data sets, and which rows are there."""

import json
from contextlib import chdir
from pathlib import Path

from flawline.recipe import Recipe
from flawline.teachers import load_teacher

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "accuracy.json"
REAL = ("magnetic_tile", "kolektorsdd")
"""Layouts with a folder of the same name below the data root."""
MEMORY = "exdd"
"""The detector that trains nothing."""
HELD_OUT = ROOT / "out" / "held_out"
"""Where held_out.py writes the smaller data sets that settings are chosen by."""
SURFACES = ("surfaces:woven", "surfaces:leather,seed=2", "surfaces:ground_steel,seed=4")


def real_sets(data_root: Path) -> tuple[str, ...]:
    """`LAYOUT:PATH` of each real set."""
    return tuple(f"{name}:{data_root / name}" for name in REAL)


def teacher_field(recipe: Recipe) -> str:
    """The teacher as rows name it: its source and the first eight digits of its fingerprint.

    A relative folder lies below the repository root. Raises ArtefactError when it cannot be loaded.
    """
    with chdir(ROOT):
        teacher = load_teacher(recipe.teacher)
        return f"{teacher.source}@{teacher.fingerprint[:8]}"


def rows_done(results: Path) -> set[tuple[str, str]]:
    """Command and teacher of every row in `results`: the same command with another teacher is another row."""
    rows = json.loads(results.read_text()) if results.exists() else []
    return {(row["command"], row["teacher"]) for row in rows}
