"""The benchmark of what diffusion adds to boxes: what its switches change, and what its rows say to repeat them."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "accuracy"))
import boxes_diffusion
import typer

from flawline.recipe import read_recipe

RECIPE = boxes_diffusion.RECIPE
ALL = {"level": -1, "filtered": True, "gated": True, "compressed": True}


@pytest.mark.parametrize(
    ("switch", "name", "setting"),
    [
        ({}, "boxes_diffusion", lambda found: found),
        ({"level": 50}, "boxes_diffusion", lambda found: found),
        ({"level": 250}, "boxes_diffusion, t = 250", lambda found: found.noise_levels == (250,)),
        ({"filtered": False}, "boxes_diffusion, no filter", lambda found: not found.fusion.filter),
        ({"gated": False}, "boxes_diffusion, no gate", lambda found: not found.fusion.gate),
        ({"compressed": False}, "boxes_diffusion, no ResVAE", lambda found: found.resvae is None),
    ],
)
def test_a_switch_changes_one_setting_and_the_name(switch, name, setting):
    recipe = read_recipe(RECIPE)
    changed = boxes_diffusion.changed(recipe, **{**ALL, **switch})
    before, after = recipe.part("d3n").diffusion, changed.part("d3n").diffusion
    assert changed.name == name
    assert setting(after)
    assert (before == after) is (name == recipe.name)


def test_labels_alone_teach_as_long_or_twice_as_long():
    recipe = read_recipe(RECIPE)
    once, twice = (boxes_diffusion.by_labels(recipe, twice=each).part("d3n") for each in (False, True))
    assert once.diffusion is twice.diffusion is None
    assert twice.training.steps == 2 * once.training.steps == 2 * recipe.part("d3n").training.steps


def test_a_row_names_the_command_that_repeats_it():
    given = {"fold": 2, "seed": 1, "recipe": RECIPE, "budget": 600.0, **ALL, "level": 150, "gated": False}
    said = (
        "python benchmarks/accuracy/boxes_diffusion.py --fold 2 --seed 1 --level 150 --no-gate --budget 600"
    )
    assert boxes_diffusion._command(given) == said


def test_parts_that_are_not_there_are_refused():
    app = typer.Typer()
    app.command()(boxes_diffusion.main)
    told = CliRunner().invoke(app, ["--parts", "baseline,teacher"])
    assert told.exit_code == 2
    assert "give some of baseline, twice, fused, distilled" in told.output
