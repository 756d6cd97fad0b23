"""The whole chain of D3N in its small recipe: diffusion model, repository, fused detector, light detector."""

from pathlib import Path

import onnx
import pytest

from flawline.data import load_dataset
from flawline.detectors.d3n.part import D3NPart
from flawline.detectors.export import LineGraph, export_onnx
from flawline.detectors.fitted import FittedLine
from flawline.jobs.fit import fit
from flawline.recipe import Recipe, read_recipe

RECIPE = Path(__file__).parents[2] / "build" / "recipes" / "boxes_diffusion_small.yaml"
DATA = "surfaces:woven,size=128x128,normals=16,test_normals=2,test_defects=2,train_defects=8"


def graph_of(fitted: FittedLine, path: Path) -> tuple[list[object], ...]:
    """Nodes, weights with their sizes, and outputs of a line's ONNX graph."""
    export_onnx(LineGraph(fitted.model, (0, 0)), 128, path)
    graph = onnx.load(path).graph
    nodes: list[object] = [(node.op_type, list(node.input), list(node.output)) for node in graph.node]
    weights: list[object] = [(each.name, list(each.dims), each.data_type) for each in graph.initializer]
    return nodes, weights, [each.name for each in graph.output]


def test_the_small_recipe_makes_a_line_with_the_graph_of_a_light_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dataset = load_dataset(DATA)
    recipe = read_recipe(RECIPE, teacher="builtin", false_alarm=0.2)
    taught = fit("d3n", dataset, recipe, seed=0, checkpoint=tmp_path / "checkpoint", trial=True)
    (part,) = taught.model.parts
    assert isinstance(part, D3NPart)
    trainings = part.architecture["diffusion"]["trainings"]
    assert {name: each["steps"] for name, each in trainings.items()} == {
        "diffusion_model": 4,
        "resvae": 4,
        "fused_detector": 4,
    }
    assert part.training is not None
    assert part.training.steps == 4
    assert "taught by diffusion" in part.statements["Detector"]
    assert "16.0 times less than the features" in part.statements["Diffusion"]
    section = recipe.part("d3n").model_dump(mode="json") | {"diffusion": None}
    alone = Recipe.model_validate({**recipe.model_dump(exclude={"parts"}), "d3n": section})
    baseline = fit("d3n", dataset, alone, seed=0, trial=True)
    assert graph_of(taught, tmp_path / "taught.onnx") == graph_of(baseline, tmp_path / "baseline.onnx")
