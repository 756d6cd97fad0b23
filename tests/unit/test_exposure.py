"""Exposure is evened where the light of a line varies, and only there."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_lines import draw_line, small_recipe

from flawline.data import Dataset
from flawline.data.depth import at_bits
from flawline.jobs.exposure import evened_exposure
from flawline.jobs.fit import settled

OPEN = small_recipe("builtin", even_exposure=None)


@pytest.mark.parametrize("family", ["woven", "ground_steel"])
@pytest.mark.parametrize(("light", "evened"), [(0.0, False), (1.0, True)])
def test_the_light_of_the_good_pictures_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, light: float, evened: bool
) -> None:
    counts = {"normals": 16, "test_normals": 1, "test_defects": 1, "train_defects": 0}
    dataset = draw_line(tmp_path, family=family, light=light, **counts)
    assert settled(OPEN, dataset).even_exposure is evened
    told = capsys.readouterr().err
    assert ("exposure is evened" if evened else "exposure is left as it is") in " ".join(told.split())
    assert f"even_exposure: {str(not evened).lower()}" in " ".join(told.split())


@pytest.mark.parametrize("asked", [True, False])
def test_a_recipe_has_the_last_word(tmp_path: Path, asked: bool) -> None:
    dataset = Dataset("none", tmp_path, ())
    recipe = small_recipe("builtin", even_exposure=asked)
    assert evened_exposure(dataset, recipe) is recipe


def test_it_is_evened_without_good_pictures_and_with_more_than_eight_bits(tmp_path: Path) -> None:
    assert evened_exposure(Dataset("none", tmp_path, ()), OPEN).even_exposure is True
    counts = {"normals": 16, "test_normals": 1, "test_defects": 1, "train_defects": 0}
    steady = draw_line(tmp_path, **counts)
    assert evened_exposure(steady, OPEN).even_exposure is False
    deep = replace(steady, samples=at_bits(steady.samples, 12))
    assert evened_exposure(deep, OPEN).even_exposure is True
