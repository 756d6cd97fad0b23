"""Real sets, where they lie beside the project: they load by their split, and fitting streams their pictures."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flawline.data import load_dataset

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SETS = {
    "magnetic_tile": {"normals": 952, "defects": 392, "train_normals": 502},
    "kolektorsdd": {"normals": 347, "defects": 52, "train_normals": None},
}

pytestmark = [
    pytest.mark.skipif(not (DATA / "magnetic_tile").is_dir(), reason="the real sets are not here"),
    pytest.mark.timeout(600),
]


@pytest.mark.parametrize("layout", SETS)
def test_a_set_loads_whole_and_keeps_items_on_one_side(layout: str) -> None:
    dataset = load_dataset(f"{layout}:{DATA / layout}")
    expected = SETS[layout]
    assert sum(not sample.is_defect for sample in dataset.samples) == expected["normals"]
    assert sum(sample.is_defect for sample in dataset.samples) == expected["defects"]
    if expected["train_normals"] is not None:
        assert len(dataset.train_normals) == expected["train_normals"]
    assert len({sample.image for sample in dataset.samples}) == len(dataset.samples)
    sides = {split: {s.group for s in dataset.samples if s.split == split} for split in ("train", "test")}
    assert not sides["train"] & sides["test"]
    for sample in (*dataset.train_normals[:2], *dataset.train_defects[:2], *dataset.test[-2:]):
        pixels = sample.read_image()
        mask = sample.read_mask(*pixels.shape[:2])
        assert mask.any() or not sample.is_defect or sample.defect_class == "uneven"


FIT = """
import json, sys
from dataclasses import replace
from flawline.data import load_dataset
from flawline.report.evaluation import peak_rss_mb
from flawline.jobs.fit import fit
from flawline.recipe import Recipe

spec, count = sys.argv[1], int(sys.argv[2])
whole = load_dataset(spec, known=True)
part = replace(whole, samples=(*whole.train_normals[:count], *whole.train_defects[:4], *whole.test[:8]))
recipe = Recipe.model_validate({"size": 128, "false_alarm": 0.1, "adapt": {"steps": 4}})
fitted = fit("exdd", part, recipe, seed=0)
verdicts = fitted.inspect([sample.read_image() for sample in part.test])
held_out = len(fitted.calibration.scores) if fitted.calibration.method == "split" else 0
print(json.dumps({
    "peak": peak_rss_mb(),
    "normals": fitted.data.learnt_normals + held_out,
    "labelled": fitted.data.labelled_defects,
    "scores": [verdict.score for verdict in verdicts],
}))
"""


def fitted(layout: str, normals: int) -> dict[str, Any]:
    """Fit in a process of its own, since only the peak memory of a whole process is known."""
    command = [sys.executable, "-c", FIT, f"{layout}:{DATA / layout}", str(normals)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert (result["normals"], result["labelled"]) == (normals, 4)
    assert all(score > 0 for score in result["scores"])
    return result


def test_pictures_of_every_shape_are_fitted() -> None:
    """Those of Magnetic Tile are of any size and shape, and few enough here for cross-conformal calibration."""
    assert len(fitted("magnetic_tile", 30)["scores"]) == 8


def test_fitting_streams_the_pictures() -> None:
    """Three times as many pictures take little more memory: their patches are kept, they are not.

    Held in memory, the 70 pictures more would take 130 MB.
    """
    few, many = (fitted("kolektorsdd", normals)["peak"] for normals in (30, 100))
    assert many - few < 70
