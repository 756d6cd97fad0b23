"""A line's models fit each other and the hand-written shared stages, tensor by tensor."""

from itertools import product
from pathlib import Path

import pytest
from small_lines import banks_facts, student_facts, write_artefact

from flawline.artefact.manifest import Manifest, PartFacts, TensorFacts
from flawline.artefact.served import NEGATIVE, POSITIVE
from flawline.detectors.part import MAX_PARTS
from flawline.repository import names
from flawline.repository.assemble import BATCHING, MAX_BATCH, line_models, native_discrepancy
from flawline.repository.model_config import ModelConfig, Tensor
from flawline.repository.publish import CONFIG, shared_stages
from flawline.scoring.finding import ROLES
from flawline.scoring.picture import SIZES
from flawline.targets import TARGETS
from flawline.targets.target import NATIVE_ONNX, Native

VERDICT = {
    "SCORE": ("TYPE_FP32", (1,)),
    "P_VALUE": ("TYPE_FP32", (1,)),
    "VERDICT": ("TYPE_INT32", (1,)),
    "IS_DEFECT": ("TYPE_BOOL", (1,)),
    "ANOMALY_MAP": ("TYPE_FP32", (256, 256)),
    "MASK": ("TYPE_UINT8", (256, 256)),
    "BOXES": ("TYPE_FP32", (-1, 6)),
}


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_artefact(tmp_path / "artefact", "bottle", 3, size=256)


def shared(name: str) -> ModelConfig:
    return ModelConfig.from_pbtxt((shared_stages() / name / CONFIG).read_text())


def table(tensors: tuple[Tensor, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {tensor.name: (tensor.dtype, tensor.dims) for tensor in tensors}


def fit_together(one: tuple[str, tuple[int, ...]], other: tuple[str, tuple[int, ...]]) -> bool:
    """Same type, and shapes that agree where both are fixed."""
    return (
        one[0] == other[0]
        and len(one[1]) == len(other[1])
        and all(a == b or -1 in (a, b) for a, b in zip(one[1], other[1], strict=True))
    )


@pytest.mark.parametrize("fused", [True, False])
def test_models_and_their_names(tmp_path: Path, fused: bool) -> None:
    models = line_models(write_artefact(tmp_path / "a", "bottle", 3, fused=fused))
    expected = {"bottle", "bottle_pixels", "bottle_discrepancy"} | ({"bottle_fused"} if fused else set())
    assert set(models) == expected
    for name, config in models.items():
        assert config.name == name
        assert config.versions == (3,), "pinned: a newer folder alone must change nothing"
        assert ModelConfig.from_pbtxt(config.to_pbtxt()) == config


def test_the_doors_have_the_tensors_of_the_documentation(manifest: Manifest) -> None:
    models = line_models(manifest)
    image, pixels = {"IMAGE": ("TYPE_STRING", (1,))}, {"PIXELS": ("TYPE_UINT8", (-1, -1, 3))}
    assert table(models["bottle"].inputs) == image
    assert table(models["bottle_pixels"].inputs) == pixels
    assert table(models["bottle_fused"].inputs) == image | pixels
    assert all(tensor.optional and tensor.ragged for tensor in models["bottle_fused"].inputs)
    for name in ("bottle", "bottle_pixels", "bottle_fused"):
        assert table(models[name].outputs) == VERDICT
        assert models[name].max_batch_size == MAX_BATCH


DETECTORS = ("exdd", "sacd", "ddpm_ast+exdd")
"""One of each kind: banks, a student, both."""


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("size", SIZES)
def test_every_step_takes_and_gives_what_its_stage_has(tmp_path: Path, size: int, detector: str) -> None:
    models = line_models(write_artefact(tmp_path / "a", "bottle", 3, detector, size=size))
    for door in ("bottle", "bottle_pixels"):
        known = table(models[door].inputs)
        for step in models[door].ensemble_steps:
            stage = models[step.model] if step.model in models else shared(step.model)
            assert step.version == (3 if step.model in models else -1)
            inputs, outputs = table(stage.inputs), table(stage.outputs)
            needed = {tensor.name for tensor in stage.inputs if not tensor.optional}
            assert needed <= set(step.inputs) <= set(inputs)
            for inner, outer in step.inputs.items():
                assert fit_together(inputs[inner], known[outer]), (step.model, inner)
            known |= {outer: outputs[inner] for inner, outer in step.outputs.items()}
            if step.model == "preprocess":
                assert known["picture"] == ("TYPE_UINT8", (size, size, 3))
        for name, tensor in table(models[door].outputs).items():
            assert fit_together(known[name], tensor), name


def test_the_hand_written_stages_agree_with_the_code() -> None:
    assert sorted(
        path.parent.name for path in shared_stages().glob(f"*/{CONFIG}") if path.parent.name in names.SHARED
    ) == sorted(names.SHARED)
    key = ("TYPE_INT32", (2,))
    for name in names.SHARED:
        config = shared(name)
        assert config.name == name
        assert config.max_batch_size == MAX_BATCH
        assert config.backend == "python"
        assert config.dynamic_batching == BATCHING
        assert [(group.count, group.kind) for group in config.instance_groups] == [(1, "KIND_CPU")]
        assert table(config.inputs).get("ARTEFACT_KEY", key) == key
        assert table(config.inputs).get("GEOMETRY", ("TYPE_INT32", (2,))) == ("TYPE_INT32", (2,))
    sizes = {
        name: dims for name, (_, dims) in table(shared("preprocess").outputs).items() if name != "GEOMETRY"
    }
    for deep in ("", "DEEP_"):
        assert sizes.pop(f"{deep}PICTURE") == (-1, -1, 3)
    assert sizes == {f"{deep}PICTURE_{size}": (size, size, 3) for size in SIZES for deep in ("", "DEEP_")}
    for tensor in shared("preprocess").inputs:
        assert tensor.optional
        assert tensor.ragged


def test_both_banks_have_one_form_and_a_file_each() -> None:
    negative, positive = shared("memory_bank_negative"), shared("memory_bank_positive")
    assert (table(negative.inputs), table(negative.outputs)) == (
        table(positive.inputs),
        table(positive.outputs),
    )
    assert negative.parameters["BANK_FILE"] == NEGATIVE
    assert positive.parameters["BANK_FILE"] == POSITIVE


def test_the_postprocess_stage_takes_every_role_of_as_many_parts_as_a_line_may_have() -> None:
    shapes = {
        "map": ("TYPE_FP32", (-1, -1)),
        "score": ("TYPE_FP32", (1,)),
        "boxes": ("TYPE_FP32", (-1, 6)),
    }
    assert set(shapes) == set(ROLES)
    expected = {
        f"{role.upper()}_{number}": shape
        for number in range(1, MAX_PARTS + 1)
        for role, shape in shapes.items()
    }
    inputs = table(shared("postprocess").inputs)
    constants = {"ARTEFACT_KEY": ("TYPE_INT32", (2,)), "GEOMETRY": ("TYPE_INT32", (2,))}
    assert inputs == constants | expected
    optional = {tensor.name for tensor in shared("postprocess").inputs if tensor.optional}
    assert optional == set(expected)
    assert not any(tensor.optional for tensor in shared("ratio_scoring").inputs)


EMBEDDING, DISCREPANCY = ("TYPE_FP32", (16, 16, 28)), ("TYPE_FP32", (32, 32))
BOXES = PartFacts(
    name="boxer",
    outputs=(TensorFacts(name="FRAMES", dims=(-1, 6)), TensorFacts(name="CLASSES", dtype="INT32", dims=(4,))),
    stage=None,
    gives={"boxes": "FRAMES"},
    maps=(0,),
    architecture={},
    statements={},
    training=None,
)
"""A part of another package."""


@pytest.mark.parametrize(
    ("parts", "given", "stages", "findings"),
    [
        (
            (banks_facts(),),
            {"EMBEDDING": EMBEDDING},
            ["ratio_scoring"],
            {"MAP_1": "ratio_map", "SCORE_1": "ratio_score"},
        ),
        ((student_facts("sacd"),), {"DISCREPANCY": DISCREPANCY}, [], {"MAP_1": "discrepancy"}),
        (
            (student_facts("ddpm_ast"), banks_facts()),
            {"DISCREPANCY": DISCREPANCY, "EMBEDDING": EMBEDDING},
            ["ratio_scoring"],
            {"MAP_1": "discrepancy", "MAP_2": "ratio_map", "SCORE_2": "ratio_score"},
        ),
        (
            (banks_facts(), BOXES, student_facts("sacd")),
            {
                "EMBEDDING": EMBEDDING,
                "FRAMES": ("TYPE_FP32", (-1, 6)),
                "CLASSES": ("TYPE_INT32", (4,)),
                "DISCREPANCY": DISCREPANCY,
            },
            ["ratio_scoring"],
            {
                "MAP_1": "ratio_map",
                "SCORE_1": "ratio_score",
                "BOXES_2": "frames",
                "MAP_3": "discrepancy",
            },
        ),
    ],
    ids=["exdd", "sacd", "ddpm_ast+exdd", "exdd+boxer+sacd"],
)
def test_every_kind_of_line_has_the_tensors_and_stages_of_its_parts(
    tmp_path: Path,
    parts: tuple[PartFacts, ...],
    given: dict[str, tuple[str, tuple[int, ...]]],
    stages: list[str],
    findings: dict[str, str],
) -> None:
    models = line_models(write_artefact(tmp_path / "a", "bottle", 3, parts=parts))
    graph = models["bottle_discrepancy"]
    assert table(graph.inputs) == {"PICTURE": ("TYPE_UINT8", (128, 128, 3))}
    key = {"ARTEFACT_KEY": ("TYPE_INT32", (2,))}
    assert list(table(graph.outputs).items()) == [*given.items(), *key.items()], "in the graph's order"
    for door in ("bottle", "bottle_pixels"):
        steps = models[door].ensemble_steps
        assert [step.model for step in steps] == ["preprocess", "bottle_discrepancy", *stages, "postprocess"]
        assert steps[-1].inputs == findings | {"ARTEFACT_KEY": "artefact_key", "GEOMETRY": "geometry"}
        assert set(given) <= set(steps[1].outputs)
        stage_inputs = {name for step in steps for name in step.inputs.values()}
        made = {name for step in steps[:-1] for name in step.outputs.values()}
        assert made - stage_inputs <= {"classes"}, "no stage computes what nothing takes"
        for step in steps[2:]:
            stage = shared(step.model)
            assert set(step.inputs) <= set(table(stage.inputs))


def test_the_native_form_differs_in_who_runs_it_alone(tmp_path: Path) -> None:
    for target, detector in product(TARGETS.names(), DETECTORS):
        manifest = write_artefact(tmp_path / target / detector, "bottle", 3, detector, target=target)
        way = TARGETS.get(target).native
        native, python = native_discrepancy(manifest, way), line_models(manifest)["bottle_discrepancy"]
        assert native.backend == "onnxruntime"
        assert native.default_model_filename in manifest.files
        as_python = {
            "backend": "python",
            "default_model_filename": "",
            "instance_groups": python.instance_groups,
        }
        assert native.model_copy(update=as_python) == python


def test_the_native_form_is_what_the_target_says(tmp_path: Path) -> None:
    manifest = write_artefact(tmp_path / "a", "bottle", 3)
    native = native_discrepancy(manifest, Native(backend="torch", file="model.pt", kind="KIND_GPU"))
    assert (native.backend, native.default_model_filename) == ("torch", "model.pt")
    assert [(group.count, group.kind) for group in native.instance_groups] == [(1, "KIND_GPU")]


# --- lines with windows ---

WINDOWS = {"scale": 1, "step": 96, "align": 32, "even_exposure": True}


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_line_with_windows_takes_pictures_of_any_shape_one_by_one(tmp_path: Path, detector: str) -> None:
    manifest = write_artefact(tmp_path / "a", "bottle", 3, detector, windows=WINDOWS)
    models = line_models(manifest)
    assert {model.max_batch_size for model in models.values()} == {1}
    graph = models["bottle_discrepancy"]
    assert table(graph.inputs) == {"PICTURE": ("TYPE_UINT8", (-1, -1, 3))}
    found = {name: dims for name, (_, dims) in table(graph.outputs).items() if name != "ARTEFACT_KEY"}
    assert all(dims[:2] == (-1, -1) for dims in found.values())
    assert found.get("EMBEDDING", (-1, -1, 28)) == (-1, -1, 28), "the length of a patch feature stays known"
    for door in ("bottle", "bottle_pixels"):
        known = table(models[door].inputs)
        for step in models[door].ensemble_steps:
            stage = models[step.model] if step.model in models else shared(step.model)
            inputs, outputs = table(stage.inputs), table(stage.outputs)
            for inner, outer in step.inputs.items():
                assert fit_together(inputs[inner], known[outer]), (step.model, inner)
            known |= {outer: outputs[inner] for inner, outer in step.outputs.items()}
    for name in ("bottle", "bottle_pixels", "bottle_fused"):
        outputs = table(models[name].outputs)
        assert outputs["ANOMALY_MAP"] == ("TYPE_FP32", (-1, -1))
        assert outputs["MASK"] == ("TYPE_UINT8", (-1, -1))


def test_windows_are_cut_by_the_python_stage_on_every_server(tmp_path: Path) -> None:
    manifest = write_artefact(tmp_path / "a", "bottle", 3, windows=WINDOWS)
    assert native_discrepancy(manifest, NATIVE_ONNX) == line_models(manifest)["bottle_discrepancy"]
