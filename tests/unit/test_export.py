"""A line's graph says the same in eager torch, ONNX Runtime and OpenVINO, and brings the line's constants."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from small_lines import KEY, SIZE, small_model, write_teacher
from torch import nn

from flawline.detectors.export import CONSTANTS, INPUT, LineGraph, export_onnx
from flawline.errors import ArtefactError, RecipeError
from flawline.scoring.ratio import ImageScore
from flawline.scoring.settings import LineSettings
from flawline.targets.compile import TARGETS, check_target, compile_graph
from flawline.targets.graph import RUNTIMES, Graph, load_graph

SETTINGS = LineSettings(
    size=SIZE,
    false_alarm=0.01,
    pixel_threshold=1.2345678,
    sigma=4.0,
    min_area=16,
    image_score=ImageScore.NEGATIVE_PEAK,
    has_positive=False,
    positive_weight=0.3,
    eight_bit_map=True,
)
NORMAL_SCORES = np.sort(np.random.default_rng(0).gamma(2, size=101).astype(np.float32))


def pictures(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Exported:
    graph: LineGraph
    folder: Path
    files: list[str]

    def load(self, target: str) -> Graph:
        return load_graph(self.folder, target, threads=1)


SHAPES = {"EMBEDDING": ((SIZE // 8) ** 2, 28), "DISCREPANCY": (SIZE // 4, SIZE // 4)}


@pytest.fixture(
    scope="module",
    params=[
        ("exdd", {}, ("EMBEDDING",)),
        ("sacd+exdd", {"faithful_pooling": True}, ("DISCREPANCY", "EMBEDDING")),
        ("ddpm_ast", {}, ("DISCREPANCY",)),
    ],
    ids=["banks", "a student, and banks with the authors' pooling", "a student whose head looks far"],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("artefact")
    detector, pooling, found = request.param
    line = small_model(write_teacher(tmp_path_factory.mktemp("teacher")), detector, **pooling)
    graph = LineGraph(line, SETTINGS, NORMAL_SCORES, KEY)
    assert graph.outputs == (*found, *CONSTANTS)
    export_onnx(graph, SIZE, folder / "model.onnx")
    return Exported(graph, folder, compile_graph(folder, "openvino"))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_all_runtimes_find_the_same(exported: Exported, target: str, count: int) -> None:
    with torch.inference_mode():
        eager = exported.graph(torch.from_numpy(pictures(count)))
    outputs = exported.load(target).run(pictures(count))
    assert tuple(outputs) == exported.graph.outputs
    for name, expected in zip(exported.graph.outputs[: -len(CONSTANTS)], eager, strict=False):
        values = expected.numpy()
        assert outputs[name].shape == values.shape == (count, *SHAPES[name])
        assert outputs[name].dtype == np.float32
        assert values.std() > 1e-3 * np.abs(values).max(), "nothing to tell apart"
        np.testing.assert_allclose(outputs[name], values, rtol=1e-3, atol=1e-5 * np.abs(values).max())


def runs_of_layers(line: nn.Module) -> list[nn.Module]:
    """Convolutions that one eager pass runs, in their order; a backbone that runs twice is there twice."""
    runs: list[nn.Module] = []
    hooks = [
        part.register_forward_hook(lambda part, *_: runs.append(part))
        for part in line.modules()
        if isinstance(part, nn.Conv2d)
    ]
    with torch.inference_mode():
        line(torch.from_numpy(pictures(1)))
    for hook in hooks:
        hook.remove()
    return runs


@pytest.mark.parametrize(
    ("detector", "found"),
    [
        ("exdd", ("EMBEDDING",)),
        ("sacd", ("DISCREPANCY",)),
        ("ddpm_ast", ("DISCREPANCY",)),
        ("sacd+exdd", ("DISCREPANCY", "EMBEDDING")),
        ("ddpm_ast+exdd", ("DISCREPANCY", "EMBEDDING")),
    ],
)
def test_a_graph_gives_what_the_line_has_by_one_teacher(
    tmp_path: Path, detector: str, found: tuple[str, ...]
) -> None:
    line = small_model(write_teacher(tmp_path), detector)
    graph = LineGraph(line, SETTINGS, NORMAL_SCORES, KEY)
    assert graph.outputs == (*found, *CONSTANTS)
    with torch.inference_mode():
        outputs = graph(torch.from_numpy(pictures(2)))
    constants = [(2, len(each)) for each in (KEY, SETTINGS.to_array(), NORMAL_SCORES)]
    assert [tuple(each.shape) for each in outputs] == [(2, *SHAPES[name]) for name in found] + constants
    runs = runs_of_layers(line)
    assert len(runs) == len(set(runs))


def test_parts_share_one_backbone_and_leave_the_banks_out(exported: Exported) -> None:
    model = onnx.load(exported.folder / "model.onnx")
    weights = {entry.name: hash(entry.raw_data) for entry in model.graph.initializer}
    filters = [weights[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    assert 0 < len(filters) == len(set(filters)), "no convolution is there twice"
    normalised = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert normalised == [], "it is folded into the convolutions"
    shapes = [tuple(entry.dims) for entry in model.graph.initializer]
    memory = exported.graph.line.memory
    assert memory is None or tuple(memory.negative.vectors.shape) not in shapes


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("count", [1, 3])
def test_the_constants_arrive_whole_for_every_picture(exported: Exported, target: str, count: int) -> None:
    """The key is two INT32 for OpenVINO, which keeps no more of an INT64 on the CPU."""
    outputs = exported.load(target).run(pictures(count))
    assert outputs["ARTEFACT_KEY"].dtype == np.int32
    np.testing.assert_array_equal(outputs["ARTEFACT_KEY"], [KEY] * count)
    np.testing.assert_array_equal(outputs["SETTINGS"], SETTINGS.to_array()[None].repeat(count, axis=0))
    np.testing.assert_array_equal(outputs["CALIBRATION"], NORMAL_SCORES[None].repeat(count, axis=0))
    assert outputs["SETTINGS"].dtype == outputs["CALIBRATION"].dtype == np.float32


def test_the_file_stands_alone_and_takes_any_batch(exported: Exported) -> None:
    model = onnx.load(exported.folder / "model.onnx", load_external_data=False)
    assert [entry.name for entry in model.graph.input] == [INPUT]
    assert tuple(entry.name for entry in model.graph.output) == exported.graph.outputs
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    batch, *rest = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert [dimension.dim_value for dimension in rest] == [SIZE, SIZE, 3]


def test_compiling_leaves_the_files_it_names(exported: Exported, tmp_path: Path) -> None:
    assert sorted(exported.files) == sorted(path.name for path in exported.folder.iterdir())
    (tmp_path / "model.onnx").write_bytes((exported.folder / "model.onnx").read_bytes())
    assert (
        compile_graph(tmp_path, "onnxruntime") == ["model.onnx"] == [path.name for path in tmp_path.iterdir()]
    )


def test_every_target_has_a_runtime() -> None:
    assert set(TARGETS) == set(RUNTIMES)
    with pytest.raises(RecipeError, match="unknown target 'tensorflow'; there are: openvino, onnxruntime"):
        check_target("tensorflow")


@pytest.mark.parametrize(("target", "file"), [("openvino", "model.xml"), ("onnxruntime", "model.onnx")])
@pytest.mark.parametrize("content", [None, b"no graph"])
def test_a_graph_that_cannot_be_loaded_is_named(
    tmp_path: Path, target: str, file: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ArtefactError, match=rf"{file}: the graph cannot be loaded"):
        load_graph(tmp_path, target, threads=1)
