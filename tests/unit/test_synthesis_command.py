"""`flawline synthesize` with a recipe, and with a method that trains first."""

import json

import cv2
import numpy as np
from typer.testing import CliRunner

from flawline.cli import app


def test_the_command_takes_the_method_and_its_settings_from_the_recipe(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "line" / "good").mkdir(parents=True)
    for number in range(4):
        picture = rng.normal(110, 20, (64, 64)).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "line" / "good" / f"{number}.png"), picture)
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "synthesis: {method: ddpm, side: 16, channels: [8, 8], steps: 2, batch: 2, sampling_steps: 2, pool: 2}\n"
    )
    out = tmp_path / "out"
    arguments = ["synthesize", "--data", f"folder:{tmp_path / 'line'}", "--out", str(out), "--count", "2"]
    done = CliRunner().invoke(app, [*arguments, "--recipe", str(recipe), "--budget", "1m", "--device", "cpu"])
    assert done.exit_code == 0, done.exception
    inside = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "line" / "defect_new")])
    assert inside.exit_code != 0
    assert "lies in the data set" in str(inside.exception)
    assert not (tmp_path / "line" / "defect_new").exists()
    assert len(list((out / "defect_ddpm").glob("*.png"))) == 2
    assert json.loads((out / "synthetic.json").read_text())["settings"]["budget"] == 60
    assert (out / "contact_sheet.png").exists()
    done = CliRunner().invoke(app, [*arguments, "--method", "simplex", "--out", str(tmp_path / "noise")])
    assert done.exit_code == 0, done.exception
    assert len(list((tmp_path / "noise" / "defect_simplex").glob("*.png"))) == 2
    recipe.write_text("synthesis: {method: strokes, crack: 1, scratch: 0, pits: 0, stain: 0}\n")
    drawn = [*arguments, "--out", str(tmp_path / "cracks")]
    assert CliRunner().invoke(app, [*drawn, "--recipe", str(recipe)]).exit_code == 0
    assert json.loads((tmp_path / "cracks" / "synthetic.json").read_text())["settings"]["pits"] == 0
    other = CliRunner().invoke(app, [*drawn, "--method", "strokes"])
    assert other.exit_code != 0
    assert "of another crack (1.0, now 0.4)" in str(other.exception)
    joined = [*arguments, "--recipe", str(recipe), "--out", str(tmp_path / "joined")]
    assert CliRunner().invoke(app, [*joined, "--method", "strokes+simplex"]).exit_code == 0
    settings = json.loads((tmp_path / "joined" / "synthetic.json").read_text())["settings"]
    assert [part["method"] for part in settings["parts"]] == ["strokes", "simplex"]
    assert settings["parts"][0]["pits"] == 0.25, "the method given takes the place of the recipe's"
    other = CliRunner().invoke(app, [*joined, "--method", "perlin+cutpaste"])
    assert "of another parts.0.method (strokes, now perlin)" in str(other.exception)
