"""The whole chain of D3N by `flawline build`: diffusion model, repository, fused detector, light detector."""

import json
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from flawline.cli import app
from flawline.data import load_dataset
from flawline.detectors.export import LineGraph, export_onnx
from flawline.jobs.fit import fit
from flawline.recipe import Recipe, read_recipe
from flawline.repository.names import discrepancy

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

RECIPE = Path(__file__).parents[2] / "build" / "recipes" / "boxes_diffusion_small.yaml"
DATA = "surfaces:woven,size=128x128,normals=16,test_normals=2,test_defects=2,train_defects=8"


def graph_of(path: Path) -> tuple[list[object], ...]:
    """Nodes, weights with their sizes, and outputs of an ONNX graph."""
    graph = onnx.load(path).graph
    nodes: list[object] = [(node.op_type, list(node.input), list(node.output)) for node in graph.node]
    weights: list[object] = [(each.name, list(each.dims), each.data_type) for each in graph.initializer]
    return nodes, weights, [each.name for each in graph.output]


def test_the_small_recipe_builds_a_line_with_the_graph_of_a_light_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    common = ["--data", DATA, "--recipe", str(RECIPE), "--teacher", "builtin", "--false-alarm", "0.2"]
    place = ["--repository", str(tmp_path / "repository"), "--checkpoint", str(tmp_path / "checkpoint")]
    done = CliRunner().invoke(app, ["build", "d3n", *common, "--line", "small", "--no-fused", *place])
    assert done.exit_code == 0, done.output
    artefact = tmp_path / "repository" / discrepancy("small") / "1"
    (part,) = json.loads((artefact / "manifest.json").read_text())["parts"]
    trainings = part["architecture"]["diffusion"]["trainings"]
    assert {name: each["steps"] for name, each in trainings.items()} == {
        "diffusion_model": 4,
        "resvae": 4,
        "fused_detector": 4,
    }
    assert part["training"]["steps"] == 4
    assert "taught by diffusion" in part["statements"]["Detector"]
    assert "16.0 times less than the features" in part["statements"]["Diffusion"]
    settings = read_recipe(RECIPE, teacher="builtin", false_alarm=0.2)
    section = settings.part("d3n").model_dump(mode="json") | {"diffusion": None}
    alone = Recipe.model_validate({**settings.model_dump(exclude={"parts"}), "d3n": section})
    baseline = fit("d3n", load_dataset(DATA), alone, seed=0, trial=True)
    export_onnx(LineGraph(baseline.model, (0, 0)), 128, tmp_path / "baseline.onnx")
    assert graph_of(artefact / "model.onnx") == graph_of(tmp_path / "baseline.onnx")
