"""A line's graph says the same in eager torch, ONNX Runtime and OpenVINO, and brings the key of its artefact."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from small_lines import KEY, SIZE, small_model, write_artefact, write_teacher
from torch import nn

from flawline.detectors.exdd.part import ExDDPart
from flawline.detectors.export import INPUT, LineGraph, export_onnx
from flawline.detectors.export import KEY as ARTEFACT_KEY
from flawline.errors import ArtefactError, RecipeError
from flawline.registry import forget
from flawline.repository.assemble import native_discrepancy
from flawline.repository.model_config import ModelConfig
from flawline.targets import TARGETS, get_target
from flawline.targets.target import Graph

BUILTIN = ("openvino", "onnxruntime")


def pictures(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Exported:
    graph: LineGraph
    folder: Path

    def load(self, target: str) -> Graph:
        return get_target(target).load(self.folder, threads=1)


SHAPES = {"EMBEDDING": (SIZE // 8, SIZE // 8, 28), "DISCREPANCY": (SIZE // 4, SIZE // 4)}


@pytest.fixture(
    scope="module",
    params=[
        ("exdd", {}, ("EMBEDDING",)),
        ("sacd+exdd", {"exdd": {"faithful_pooling": True}}, ("DISCREPANCY", "EMBEDDING")),
        ("ddpm_ast", {}, ("DISCREPANCY",)),
    ],
    ids=["banks", "a student, and banks with the authors' pooling", "a student whose head looks far"],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("artefact")
    detector, changes, found = request.param
    line = small_model(write_teacher(tmp_path_factory.mktemp("teacher")), detector, changes)
    graph = LineGraph(line, KEY)
    assert graph.outputs == (*found, ARTEFACT_KEY)
    export_onnx(graph, SIZE, folder / "model.onnx")
    for target in BUILTIN:
        get_target(target).compile(graph, folder / "model.onnx", folder)
    return Exported(graph, folder)


@pytest.mark.parametrize("target", BUILTIN)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_all_runtimes_find_the_same(exported: Exported, target: str, count: int) -> None:
    with torch.inference_mode():
        eager = exported.graph(torch.from_numpy(pictures(count)))
    outputs = exported.load(target).run(pictures(count))
    assert tuple(outputs) == exported.graph.outputs
    for name, expected in zip(exported.graph.outputs[:-1], eager, strict=False):
        values = expected.numpy()
        assert outputs[name].shape == values.shape == (count, *SHAPES[name])
        assert outputs[name].dtype == np.float32
        assert values.std() > 1e-3 * np.abs(values).max(), "nothing to tell apart"
        np.testing.assert_allclose(outputs[name], values, rtol=1e-3, atol=1e-5 * np.abs(values).max())


@pytest.mark.parametrize(
    ("threads", "count", "apart"), [(1, 3, 0), (2, 1, 0), (2, 2, 2), (2, 5, 5), (3, 2, 0), (64, 8, 8)]
)
def test_pictures_have_threads_of_their_own_where_there_are_enough(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, threads: int, count: int, apart: int
) -> None:
    import openvino

    started: list[int] = []
    start = openvino.AsyncInferQueue.start_async

    def counted(queue: openvino.AsyncInferQueue, inputs: dict[str, NDArray[np.uint8]], number: int) -> None:
        started.append(len(inputs["PICTURE"]))
        start(queue, inputs, number)

    monkeypatch.setattr(openvino.AsyncInferQueue, "start_async", counted)
    graph = get_target("openvino").load(exported.folder, threads=threads)
    outputs, again = graph.run(pictures(count)), graph.run(pictures(count)[::-1])
    assert started == [1] * 2 * apart
    expected = exported.load("openvino").run(pictures(count))
    assert list(outputs) == list(again) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, rtol=1e-5, atol=1e-5 * np.abs(values).max())
        np.testing.assert_allclose(again[name][::-1], outputs[name], rtol=1e-6)
        assert outputs[name].dtype == values.dtype


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
        ("exdd+ddpm_ast", ("EMBEDDING", "DISCREPANCY")),
    ],
)
def test_a_graph_gives_what_the_line_has_by_one_teacher(
    tmp_path: Path, detector: str, found: tuple[str, ...]
) -> None:
    line = small_model(write_teacher(tmp_path), detector)
    graph = LineGraph(line, KEY)
    assert graph.outputs == (*found, ARTEFACT_KEY)
    with torch.inference_mode():
        outputs = graph(torch.from_numpy(pictures(2)))
    assert [tuple(each.shape) for each in outputs] == [*((2, *SHAPES[name]) for name in found), (2, len(KEY))]
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
    for part in exported.graph.line.parts:
        if isinstance(part, ExDDPart):
            assert tuple(part.negative.vectors.shape) not in shapes


@pytest.mark.parametrize("target", BUILTIN)
@pytest.mark.parametrize("count", [1, 3])
def test_the_key_arrives_whole_for_every_picture(exported: Exported, target: str, count: int) -> None:
    """The key is two INT32 for OpenVINO, which keeps no more of an INT64 on the CPU."""
    outputs = exported.load(target).run(pictures(count))
    assert outputs[ARTEFACT_KEY].dtype == np.int32
    np.testing.assert_array_equal(outputs[ARTEFACT_KEY], [KEY] * count)


def test_the_file_stands_alone_and_takes_any_batch(exported: Exported) -> None:
    model = onnx.load(exported.folder / "model.onnx", load_external_data=False)
    assert [entry.name for entry in model.graph.input] == [INPUT]
    assert tuple(entry.name for entry in model.graph.output) == exported.graph.outputs
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    batch, *rest = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert [dimension.dim_value for dimension in rest] == [SIZE, SIZE, 3]


@pytest.mark.parametrize("target", BUILTIN)
def test_what_was_compiled_loads_from_its_folder_alone(
    exported: Exported, tmp_path: Path, target: str
) -> None:
    source, folder = tmp_path / "source.onnx", tmp_path / "compiled"
    shutil.copyfile(exported.folder / "model.onnx", source)
    content = source.read_bytes()
    folder.mkdir()
    get_target(target).compile(exported.graph, source, folder)
    assert source.read_bytes() == content
    source.unlink()
    moved = folder.rename(tmp_path / "moved")
    outputs = get_target(target).load(moved, threads=1).run(pictures(2))
    expected = exported.load(target).run(pictures(2))
    assert list(outputs) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(outputs[name], values)


def test_the_onnx_file_is_compiled_in_its_own_folder_without_a_change(
    exported: Exported, tmp_path: Path
) -> None:
    shutil.copyfile(exported.folder / "model.onnx", tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    for target in BUILTIN:
        get_target(target).compile(exported.graph, tmp_path / "model.onnx", tmp_path)
        assert (tmp_path / "model.onnx").read_bytes() == content


def test_an_unknown_target_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(RecipeError, match="unknown target 'tensorflow'; there are: openvino, onnxruntime"):
        get_target("tensorflow")


@pytest.mark.parametrize("target", BUILTIN)
def test_a_package_that_is_missing_is_named_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    assert TARGETS.get(target).missing() is None
    monkeypatch.setitem(sys.modules, target, None)  # as if it were not installed
    with pytest.raises(
        RecipeError, match=f"'{target}' needs the package {target}, .*: pip install {target}$"
    ):
        get_target(target)
    assert get_target(next(other for other in BUILTIN if other != target)).missing() is None
    assert TARGETS.get(target).native.backend == "onnxruntime", "told without the package"


@pytest.mark.parametrize("target", BUILTIN)
def test_a_graph_runs_where_only_its_own_runtime_is_installed(exported: Exported, target: str) -> None:
    """As in Triton's Python stages, where torch is not."""
    absent = ["torch", "onnx", *(other for other in BUILTIN if other != target)]
    code = f"""
import sys
from pathlib import Path
import numpy as np
for name in {absent!r}:
    sys.modules[name] = None
from flawline.targets import get_target
graph = get_target({target!r}).load(Path({str(exported.folder)!r}), threads=1)
print(*graph.run(np.zeros((2, {SIZE}, {SIZE}, 3), np.uint8)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    assert tuple(result.stdout.split()) == exported.graph.outputs


TOY = """
import shutil
from pathlib import Path
import onnxruntime
from flawline.errors import ArtefactError
from flawline.targets.target import Native

class Graph:
    def __init__(self, path, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(path.read_bytes(), options)

    def run(self, pictures):
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {"PICTURE": pictures})))

class Toy:
    name = "toy"
    native = Native(backend="pytorch", file="toy.bin", kind="KIND_GPU", platform="torch_aoti")

    def missing(self):
        return None if Path(__file__).with_name("toy_device").exists() else "target 'toy' needs a toy; plug one in"

    def compile(self, module, onnx, folder):
        shutil.copyfile(onnx, folder / "toy.bin")
        (folder / "toy.txt").write_text(" ".join(module.outputs))

    def load(self, folder, threads):
        if not (folder / "toy.txt").exists():
            raise ArtefactError("no toy here")
        return Graph(folder / "toy.bin", threads)

TARGET = Toy()
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Another package with a target, installed into a folder of its own; the target's device is there."""
    site = tmp_path / "site"
    described = site / "toy_target-1.0.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-target\nVersion: 1.0\n")
    points = "[flawline.targets]\ntoy = toy_target:TARGET\nbroken = toy_target_without_its_package:TARGET\n"
    (described / "entry_points.txt").write_text(points)
    (site / "toy_target.py").write_text(TOY)
    (site / "toy_device").touch()
    monkeypatch.syspath_prepend(site)
    forget()
    yield site
    forget()
    sys.modules.pop("toy_target", None)


def test_a_target_of_another_package_compiles_runs_and_is_told_to_triton(
    exported: Exported, toy: Path, tmp_path: Path
) -> None:
    assert TARGETS.names() == (*BUILTIN, "broken", "toy")
    target, folder = get_target("toy"), tmp_path / "compiled"
    folder.mkdir()
    target.compile(exported.graph, exported.folder / "model.onnx", folder)
    assert tuple((folder / "toy.txt").read_text().split()) == exported.graph.outputs, (
        "it was given the module"
    )
    outputs = target.load(folder, threads=1).run(pictures(3))
    for name, values in exported.load("onnxruntime").run(pictures(3)).items():
        np.testing.assert_array_equal(outputs[name], values)
    native = native_discrepancy(
        write_artefact(tmp_path / "artefact", target="toy"), TARGETS.get("toy").native
    )
    assert (native.backend, native.platform, native.default_model_filename) == (
        "pytorch",
        "torch_aoti",
        "toy.bin",
    )
    assert [(group.count, group.kind) for group in native.instance_groups] == [(1, "KIND_GPU")]
    assert ModelConfig.from_pbtxt(native.to_pbtxt()) == native


def test_a_target_of_another_package_says_itself_what_it_lacks(toy: Path, tmp_path: Path) -> None:
    (toy / "toy_device").unlink()
    with pytest.raises(RecipeError, match=r"^target 'toy' needs a toy; plug one in$"):
        get_target("toy")
    native = native_discrepancy(
        write_artefact(tmp_path / "artefact", target="toy"), TARGETS.get("toy").native
    )
    assert native.backend == "pytorch", "a line is published and rolled back where it cannot run"
    with pytest.raises(RecipeError, match=r"target 'broken' cannot be imported .*; install what it needs"):
        get_target("broken")


@pytest.mark.parametrize(("target", "file"), [("openvino", "model.xml"), ("onnxruntime", "model.onnx")])
@pytest.mark.parametrize("content", [None, b"no graph"])
def test_a_graph_that_cannot_be_loaded_is_named(
    tmp_path: Path, target: str, file: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ArtefactError, match=rf"{file}: the graph cannot be loaded"):
        get_target(target).load(tmp_path, threads=1)
