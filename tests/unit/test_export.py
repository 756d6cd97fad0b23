"""A line's graph says the same in eager torch, ONNX Runtime and OpenVINO, and brings the line's constants."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from small_lines import KEY, SIZE, write_teacher

from flawline.detectors.exdd.model import ExDD, MemoryBank
from flawline.errors import ArtefactError, RecipeError
from flawline.stages.graph import RUNTIMES, Graph, load_graph
from flawline.stages.postprocess import LineSettings
from flawline.stages.ratio import ImageScore
from flawline.targets.compile import TARGETS, check_target, compile_graph
from flawline.targets.export import INPUT, OUTPUTS, LineGraph, export_onnx
from flawline.teachers import PatchFeatures, load_teacher

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


@pytest.fixture(scope="module", params=[False, True], ids=["PatchCore's pooling", "the authors' pooling"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("artefact")
    teacher = load_teacher(write_teacher(tmp_path_factory.mktemp("teacher")))
    features = PatchFeatures(faithful_pooling=request.param)
    bank = MemoryBank(torch.zeros(1, sum(teacher.channels)), 2)
    model = ExDD(teacher, features, bank, None, image_score=ImageScore.MAP_PEAK, positive_weight=0.3)
    graph = LineGraph(model, SETTINGS, NORMAL_SCORES, KEY)
    export_onnx(graph, SIZE, folder / "model.onnx")
    return Exported(graph, folder, compile_graph(folder, "openvino"))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_all_runtimes_embed_alike(exported: Exported, target: str, count: int) -> None:
    with torch.inference_mode():
        embedding = exported.graph(torch.from_numpy(pictures(count)))[0].numpy()
    outputs = exported.load(target).run(pictures(count))
    assert set(outputs) == set(OUTPUTS)
    assert outputs["EMBEDDING"].shape == embedding.shape == (count, (SIZE // 8) ** 2, 28)
    assert outputs["EMBEDDING"].dtype == np.float32
    np.testing.assert_allclose(
        outputs["EMBEDDING"], embedding, rtol=1e-3, atol=1e-4 * np.abs(embedding).max()
    )


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
    assert [entry.name for entry in model.graph.output] == list(OUTPUTS)
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
