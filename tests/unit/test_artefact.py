"""What a release writes for each kind of line; it is read back and served as the line in eager torch answered."""

import errno
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from small_lines import SIZE, SMALL, draw_line, small_model, small_recipe, write_teacher

from flawline.artefact.manifest import FILE, DataFacts, Manifest, hashes, read, verify
from flawline.artefact.rules import CALIBRATION, SETTINGS, Rules
from flawline.artefact.served import NEGATIVE, POSITIVE, ServedLine
from flawline.data import Dataset
from flawline.data.squares import Squares
from flawline.detectors.exdd.part import ExDDPart
from flawline.detectors.fitted import TEACHER, FittedLine, levelled
from flawline.errors import ArtefactError, OutputError, RecipeError, ServerError
from flawline.jobs import build as build_module
from flawline.jobs import derive
from flawline.jobs.fit import find_all, fit
from flawline.jobs.release import kept_until_published, references, tell_kept, write_artefact
from flawline.recipe import Recipe
from flawline.scoring.calibration import Calibration
from flawline.scoring.finding import Finding
from flawline.scoring.picture import Geometry
from flawline.scoring.settings import LineSettings
from flawline.scoring.verdict import Verdict

SCORES = np.linspace(0.1, 5, 40, dtype=np.float32)
DETECTORS = ("exdd", "sacd", "ddpm_ast", "sacd+exdd", "exdd+ddpm_ast")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw_line(tmp_path_factory.mktemp("line"), normals=12, test_normals=2, test_defects=2)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


def fitted_line(
    teacher: str, detector: str, changes: Mapping[str, Mapping[str, Any]] | None = None
) -> FittedLine:
    """A line that was not trained, with constants of its own for every part."""
    model = small_model(teacher, detector, changes, even=True)
    sections = {name: {**SMALL[name], **(changes or {}).get(name, {})} for name in detector.split("+")}
    levels = ({"level": 0.7, "peak": 0.9, "sigma": 1.5}, {"level": 1.7, "peak": 2.1, "weight": 0.3})
    parts = tuple(
        part.settings().model_copy(update=update) for part, update in zip(model.parts, levels, strict=False)
    )
    settings = LineSettings(size=SIZE, false_alarm=0.1, pixel_threshold=0.5, min_area=4, parts=parts)
    calibration = Calibration("split", SCORES, 2 * SCORES, 0.1, 0.1, 0.5)
    return FittedLine(
        detector=detector,
        recipe=small_recipe(teacher, **sections).model_dump(mode="json"),
        seed=0,
        model=model,
        rules=Rules(settings, calibration),
        data=DataFacts(name="surfaces", fingerprint="f", learnt_normals=9, labelled_defects=4),
    )


def write(folder: Path, fitted: FittedLine, dataset: Dataset, *, version: int = 3) -> Manifest:
    return write_artefact(folder, fitted, dataset.test, "bottle", "onnxruntime", version=version)


@pytest.fixture
def no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting takes seconds, and most of these tests do not look at the graph."""
    monkeypatch.setattr("flawline.jobs.release.export_onnx", lambda _graph, _size, path: path.write_text(""))


def pictures(dataset: Dataset) -> list[NDArray[np.uint8]]:
    """Of several shapes, so that some have padding."""
    read = [sample.read_image() for sample in dataset.test]
    return [np.ascontiguousarray(pixels[: SIZE - 20 * number]) for number, pixels in enumerate(read)]


def assert_same(found: list[Verdict], expected: list[Verdict]) -> None:
    """Bit for bit."""
    for one, other in zip(found, expected, strict=True):
        assert (one.score, one.p_value, one.is_defect) == (other.score, other.p_value, other.is_defect)
        np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
        np.testing.assert_array_equal(one.boxes, other.boxes)
    assert len({verdict.score for verdict in expected}) == len(expected), "pictures that tell apart"


@pytest.mark.parametrize("detector", ["ddpm_ast", "sacd+exdd"])
def test_a_line_is_served_as_it_was_fitted(
    tmp_path: Path, teacher: str, dataset: Dataset, detector: str
) -> None:
    fitted = fitted_line(teacher, detector)
    manifest = write(tmp_path / "artefact", fitted, dataset)
    assert ({NEGATIVE, POSITIVE} <= set(manifest.files)) == ("exdd" in detector)
    served = ServedLine(tmp_path / "artefact", threads=1)
    expected = fitted.inspect(pictures(dataset))
    for found, wanted in zip(served.inspect(pictures(dataset)), expected, strict=True):
        assert found.score == pytest.approx(wanted.score, rel=1e-4)
        assert (found.p_value, found.is_defect) == (wanted.p_value, wanted.is_defect)
        np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, rtol=1e-3, atol=1e-5)
    assert len({verdict.score for verdict in expected}) == len(expected)


def test_a_graph_of_another_build_is_refused(tmp_path: Path, teacher: str, dataset: Dataset) -> None:
    """Its file was put into the artefact, and into the manifest."""
    write(tmp_path / "a", fitted_line(teacher, "exdd"), dataset)
    write(tmp_path / "b", fitted_line(teacher, "exdd"), dataset, version=4)
    shutil.copy(tmp_path / "b" / "model.onnx", tmp_path / "a" / "model.onnx")
    read(tmp_path / "a").model_copy(update={"files": hashes(tmp_path / "a")}).write(tmp_path / "a")
    with pytest.raises(
        ArtefactError, match="graph and settings are of different builds; build the line again"
    ):
        ServedLine(tmp_path / "a", threads=1)


@pytest.mark.usefixtures("no_graph")
@pytest.mark.parametrize("detector", DETECTORS)
def test_the_manifest_tells_of_the_parts(
    tmp_path: Path, teacher: str, dataset: Dataset, detector: str
) -> None:
    fitted = fitted_line(teacher, detector)
    manifest = write(tmp_path / "a", fitted, dataset)
    assert verify(tmp_path / "a") == manifest
    names = detector.split("+")
    own = {
        "exdd": {NEGATIVE, POSITIVE},
        "sacd": {"sacd.safetensors"},
        "ddpm_ast": {"ddpm_ast.safetensors"},
    }
    common = {TEACHER, SETTINGS, CALIBRATION, "model.onnx", "model.py"}
    kept = {f"reference/{number:03d}.png" for number in range(len(dataset.test))}
    assert set(manifest.files) == set.union(common, kept, *(own[name] for name in names))
    assert FILE not in manifest.files
    assert [part.name for part in manifest.parts] == names
    for part in manifest.parts:
        (output,) = part.outputs
        if part.name == "exdd":
            assert (output.name, output.dims, part.stage) == ("EMBEDDING", (16, 16, 28), "ratio_scoring")
            assert part.statements == {"Positive bank": "20 random vectors"}
            assert part.training is None
        else:
            assert (output.name, output.dims, part.stage) == ("DISCREPANCY", (32, 32), None)
            assert part.statements == {"Student": f"{part.name}, 4 steps in 2 s"}
            assert part.training is not None
            assert part.training.steps == 4
    assert (manifest.fusion is None) == (len(names) == 1)
    assert manifest.fusion == fitted.settings.fusion_statement
    facts = manifest.calibration
    assert (facts.method, facts.normals, facts.pixel_threshold) == ("split", len(SCORES), 0.5)
    assert manifest.data == fitted.data


@pytest.mark.usefixtures("no_graph")
def test_the_key_depends_on_all_that_answers(tmp_path: Path, teacher: str, dataset: Dataset) -> None:
    """The weights of teacher and student, the banks, the constants, the calibration; and on nothing by chance."""

    def key(name: str, line: FittedLine, version: int = 3) -> tuple[int, int]:
        return write(tmp_path / name, line, dataset, version=version).artefact_key

    def nudged(module: torch.nn.Module) -> None:
        with torch.no_grad():
            next(iter(module.state_dict().values())).view(-1)[0] += 1e-3

    fitted = fitted_line(teacher, "sacd+exdd")
    first = key("first", fitted)
    assert key("again", fitted_line(teacher, "sacd+exdd")) == first
    student, of_teacher, banks = (fitted_line(teacher, "sacd+exdd") for _ in range(3))
    nudged(student.model.parts[0].module)
    nudged(of_teacher.model.teacher)
    part = banks.model.parts[1]
    assert isinstance(part, ExDDPart)
    part.negative.vectors[0, 0] += 1e-3
    settings = fitted.settings.model_copy(update={"min_area": 5})
    keys = {
        first,
        key("student", student),
        key("teacher", of_teacher),
        key("banks", banks),
        key("settings", replace(fitted, rules=replace(fitted.rules, settings=settings))),
        key("calibration", fitted.with_budget(0.2)),
        key("recipe", replace(fitted, recipe={**fitted.recipe, "name": "other"})),
        key("version", fitted, version=4),
    }
    assert len(keys) == 8


@pytest.mark.usefixtures("no_graph")
def test_pictures_are_kept_to_prove_later_versions_on(tmp_path: Path, teacher: str, dataset: Dataset) -> None:
    write(tmp_path / "a", fitted_line(teacher, "exdd"), dataset)
    kept = references(tmp_path / "a")
    assert len(kept) == len(dataset.test)
    for one, other in zip(kept, dataset.test, strict=True):
        np.testing.assert_array_equal(one.read_image(), other.read_image())
    many = tuple(dataset.test * 10)
    write_artefact(tmp_path / "b", fitted_line(teacher, "exdd"), many, "bottle", "onnxruntime", version=1)
    assert 8 <= len(references(tmp_path / "b")) <= 16, "some, evenly spread"
    assert references(tmp_path) == ()


# ---- Saved and loaded again -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_graph")
@pytest.mark.parametrize("detector", DETECTORS)
def test_a_loaded_line_answers_as_the_saved_one(
    tmp_path: Path, teacher: str, dataset: Dataset, detector: str
) -> None:
    fitted = fitted_line(teacher, detector)
    expected = fitted.inspect(pictures(dataset))
    manifest = write(tmp_path / "a", fitted, dataset)
    loaded, its_manifest = FittedLine.load(tmp_path / "a")
    assert its_manifest == manifest
    assert_same(loaded.inspect(pictures(dataset)), expected)
    assert loaded.settings == fitted.settings
    for field in ("method", "asked_false_alarm", "false_alarm", "pixel_threshold"):
        assert getattr(loaded.calibration, field) == getattr(fitted.calibration, field)
    np.testing.assert_array_equal(loaded.calibration.scores, SCORES)
    np.testing.assert_array_equal(loaded.calibration.peaks, 2 * SCORES)
    assert (loaded.detector, loaded.seed, loaded.recipe) == (detector, 0, fitted.recipe)
    assert (loaded.data, loaded.statements) == (fitted.data, fitted.statements)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


QUICK = {"training": {"steps": 3, "pairs": 2, "crop": 64}, "synthesis": "cutpaste"}
ADAPT = {"steps": 2, "crop": 64, "normals": 2, "tested": 2}


@pytest.mark.usefixtures("no_graph")
@pytest.mark.parametrize(
    ("detector", "changes"),
    [
        ("exdd", {}),
        ("exdd", {"positive": "none", "exdd": {"faithful_pooling": True, "image_score": "negative_peak"}}),
        ("sacd", {}),
        ("ddpm_ast", {}),
        ("sacd+exdd", {"fusion": "mean", "false_alarm": 0.25}),
        ("sacd+exdd", {"adapt": ADAPT}),
    ],
    ids=["exdd", "exdd without defects", "sacd", "ddpm_ast", "sacd+exdd", "an adapted teacher"],
)
def test_a_fitted_line_is_loaded_without_its_teachers_files(
    tmp_path: Path, dataset: Dataset, detector: str, changes: dict[str, Any]
) -> None:
    source = write_teacher(tmp_path)
    recipe = small_recipe(source, sacd=QUICK, ddpm_ast={**QUICK, "width": 8}, **changes)
    fitted = fit(detector, dataset, recipe, seed=0)
    expected = fitted.inspect(pictures(dataset))
    write(tmp_path / "a", fitted, dataset)
    shutil.rmtree(source)
    loaded, _ = FittedLine.load(tmp_path / "a")
    assert_same(loaded.inspect(pictures(dataset)), expected)
    assert loaded.with_budget(0.2).settings.parts == fitted.settings.parts
    assert Recipe.model_validate(loaded.recipe).parts.keys() >= set(detector.split("+")), (
        "no default is left out"
    )
    for part, other in zip(loaded.model.parts, fitted.model.parts, strict=True):
        assert part.config == other.config
    assert (loaded.model.teacher.marks is None) == ("adapt" not in changes)


@pytest.mark.usefixtures("no_graph")
def test_a_line_saved_twice_is_the_same_files(tmp_path: Path, teacher: str, dataset: Dataset) -> None:
    first = write(tmp_path / "a", fitted_line(teacher, "sacd+exdd"), dataset)
    loaded, _ = FittedLine.load(tmp_path / "a")
    assert write(tmp_path / "b", loaded, dataset).files == first.files


@pytest.mark.usefixtures("no_graph")
@pytest.mark.parametrize("file", [TEACHER, NEGATIVE, POSITIVE, "sacd.safetensors", SETTINGS, CALIBRATION])
@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_line_is_not_loaded(
    tmp_path: Path, teacher: str, dataset: Dataset, file: str, damage: str
) -> None:
    write(tmp_path / "a", fitted_line(teacher, "sacd+exdd"), dataset)
    path = tmp_path / "a" / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"\0")
    said = {"missing": "missing", "changed": "damaged, changed by hand"}[damage]
    with pytest.raises(ArtefactError, match=f"a/{file}: {said}"):
        FittedLine.load(tmp_path / "a")


@pytest.mark.usefixtures("no_graph")
def test_a_line_of_a_part_that_is_not_installed_says_so(
    tmp_path: Path, teacher: str, dataset: Dataset
) -> None:
    manifest = write(tmp_path / "a", fitted_line(teacher, "exdd"), dataset)
    (part,) = manifest.parts
    other = part.model_copy(update={"name": "boxer"})
    manifest.model_copy(update={"parts": (other,)}).write(tmp_path / "a")
    with pytest.raises(RecipeError, match=r"unknown detector 'boxer'; .* install that package"):
        FittedLine.load(tmp_path / "a")


@pytest.mark.usefixtures("no_graph")
@pytest.mark.parametrize(
    ("file", "detector"), [(TEACHER, "exdd"), ("sacd.safetensors", "sacd"), (NEGATIVE, "exdd")]
)
def test_weights_of_another_network_are_refused(
    tmp_path: Path, teacher: str, dataset: Dataset, file: str, detector: str
) -> None:
    """As those of a Flawline whose networks were others."""
    write(tmp_path / "a", fitted_line(teacher, detector), dataset)
    tensors = load_file(tmp_path / "a" / file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, tmp_path / "a" / file)
    read(tmp_path / "a").model_copy(update={"files": hashes(tmp_path / "a")}).write(tmp_path / "a")
    with pytest.raises(ArtefactError, match=r"does not fit this Flawline .*; build it again") as caught:
        FittedLine.load(tmp_path / "a")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_graph")
def test_settings_that_are_no_longer_known_are_refused(
    tmp_path: Path, teacher: str, dataset: Dataset
) -> None:
    manifest = write(tmp_path / "a", fitted_line(teacher, "sacd"), dataset)
    recipe = {**manifest.recipe, "sacd": {"magic": 7}}
    manifest.model_copy(update={"recipe": recipe}).write(tmp_path / "a")
    with pytest.raises(ArtefactError, match=r"does not fit this Flawline .*magic.*; build it again"):
        FittedLine.load(tmp_path / "a")


# ---- Calibrated anew --------------------------------------------------------------------------------------------


def test_another_budget_changes_the_decision_alone(teacher: str) -> None:
    fitted = fitted_line(teacher, "sacd+exdd")
    other = fitted.with_budget(0.3)
    asked = fitted.calibration.at(0.3)
    assert other.calibration.asked_false_alarm == 0.3
    assert other.settings == fitted.settings.model_copy(
        update={"false_alarm": asked.false_alarm, "pixel_threshold": asked.pixel_threshold}
    )
    assert other.settings.pixel_threshold < fitted.with_budget(0.05).settings.pixel_threshold
    assert other.model is fitted.model
    assert fitted.settings.false_alarm == 0.1, "the line itself stays as it was"
    few = fitted.with_budget(0.001)
    assert few.calibration.asked_false_alarm == 0.001
    assert few.settings.false_alarm == 1 / 41, "what so many normals support"


@pytest.mark.parametrize("detector", ["exdd", "sacd+exdd"])
def test_calibration_measures_levels_scores_and_peaks_on_normals(
    teacher: str, dataset: Dataset, detector: str
) -> None:
    fitted = fitted_line(teacher, detector)
    normals = dataset.train_normals
    found = find_all(fitted.model, Squares(normals, SIZE), "calibrating")
    line = fitted.calibrated(found, false_alarm=0.2, method="k-fold")
    verdicts = line.inspect([sample.read_image() for sample in normals])
    scores, peaks = line.calibration.scores, line.calibration.peaks
    np.testing.assert_allclose(sorted(v.score for v in verdicts), scores, rtol=1e-5)
    threshold = line.settings.pixel_threshold
    np.testing.assert_allclose(
        sorted(float(v.anomaly_map.max()) * threshold for v in verdicts), peaks, rtol=1e-4
    )
    assert line.calibration.method == "k-fold"
    assert line.settings.false_alarm == line.calibration.false_alarm == 0.2
    assert line.settings.pixel_threshold == line.calibration.pixel_threshold
    assert sum(v.is_defect for v in verdicts) <= 0.2 * (len(normals) + 1)
    levels = [(part.level, part.peak) for part in line.settings.parts]
    if detector == "exdd":
        assert levels == [(0.7, 0.9)], "a part alone needs no level, and keeps what it had"
        return
    assert levels != [(0.7, 0.9), (1.7, 2.1)]
    assert np.median(scores) == pytest.approx(1, abs=0.5), "a normal picture lies near 1 of its own level"


def test_levels_are_medians_over_the_normals(teacher: str) -> None:
    settings = fitted_line(teacher, "sacd+exdd").settings
    flat = tuple(part.model_copy(update={"sigma": 0.0, "top_share": 0.0}) for part in settings.parts)
    settings = settings.model_copy(update={"parts": flat})
    square = Geometry.fit(SIZE, SIZE, SIZE)

    def even(value: float) -> NDArray[np.float32]:
        return np.full((8, 8), value, np.float32)

    found = [([Finding(map=even(value)), Finding(map=even(3 * value))], square) for value in (1.0, 2.0, 9.0)]
    student, banks = levelled(settings, found).parts
    assert (student.level, student.peak) == (2.0, 2.0)
    assert (banks.level, banks.peak) == (6.0, 6.0)
    nothing = [([Finding(map=even(0.0)), Finding(map=even(0.0))], square)]
    for part in levelled(settings, nothing).parts:
        assert part.level > 0
        assert part.peak > 0


def test_what_was_trained_is_kept_until_it_is_published(
    tmp_path: Path, teacher: str, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = fitted_line(teacher, "sacd+exdd")
    repository = tmp_path / "repository"
    kept = tmp_path / "repository.unpublished"

    def publish_it(error: type[BaseException] | None) -> None:
        with kept_until_published(
            fitted, dataset.test, "bottle", repository=repository, target="onnxruntime", fused=False
        ):
            if error is not None:
                raise error

    for error, name in ((ServerError, "bottle"), (KeyboardInterrupt, "bottle-2")):
        with pytest.raises(error):
            publish_it(error)
        said = capsys.readouterr().err
        assert (
            f"What was trained is kept in {kept / name}; publish it without training by: flawline compile"
            in said
        )
        assert f" --line bottle --target onnxruntime --from {kept / name} --repository {repository}" in said
    tell_kept(repository, "bottle", "openvino")
    tell_kept(repository, "bot", "openvino")
    said = capsys.readouterr().err
    assert said.count("An earlier build left what it trained in") == 2
    assert f"--target openvino --from {kept / 'bottle'} --repository" in said
    publish_it(None)
    assert sorted(path.name for path in kept.iterdir()) == ["bottle", "bottle-2"], (
        "what was published is not kept"
    )
    assert not capsys.readouterr().err
    loaded, manifest = FittedLine.load(kept / "bottle")
    assert_same(loaded.inspect(pictures(dataset)), fitted.inspect(pictures(dataset)))
    assert (manifest.line, manifest.target, manifest.fused) == ("bottle", "onnxruntime", False)
    assert (kept / "bottle").stat().st_mode & 0o077 == 0, "pictures lie in it"
    assert len(references(kept / "bottle")) == len(dataset.test)


def test_it_is_kept_elsewhere_where_the_disk_is_full(
    tmp_path: Path,
    teacher: str,
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fitted, save = fitted_line(teacher, "exdd"), FittedLine.save
    (tmp_path / "full").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def on_a_full_disk(line: FittedLine, folder: Path) -> dict[str, str]:
        if tmp_path / "full" in folder.parents:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(line, folder)

    monkeypatch.setattr(FittedLine, "save", on_a_full_disk)
    with (
        pytest.raises(ServerError),
        kept_until_published(
            fitted, dataset.test, "bottle", repository=tmp_path / "full" / "r", target="openvino", fused=True
        ),
    ):
        raise ServerError
    assert f"kept in {tmp_path / 'here' / 'r.unpublished' / 'bottle'};" in capsys.readouterr().err
    assert list((tmp_path / "full").iterdir()) == [], "no half copy"


def test_a_build_that_cannot_publish_leaves_what_the_named_command_publishes(
    tmp_path: Path, teacher: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, released = fitted_line(teacher, "exdd"), []

    def refuse(*_: object, **__: object) -> None:
        msg = "tritonserver ended with status 3"
        raise ServerError(msg)

    monkeypatch.setattr(build_module, "fit_named", lambda *_, **__: fitted)
    monkeypatch.setattr(build_module, "release", refuse)
    recipe = small_recipe(teacher)
    with pytest.raises(ServerError, match="ended with status 3"):
        build_module.build("exdd", dataset, "bottle", repository=tmp_path / "r", recipe=recipe, fused=False)
    monkeypatch.setattr(
        derive, "release", lambda *arguments, **settings: released.append((arguments, settings))
    )
    place = tmp_path / "r.unpublished" / "bottle"
    derive.compile_line(tmp_path / "r", "bottle", "onnxruntime", kept=place)
    (((line, samples, name, _), settings),) = released
    assert_same(line.inspect(pictures(dataset)), fitted.inspect(pictures(dataset)))
    assert (name, len(samples), settings["target"], settings["fused"]) == ("bottle", 4, "onnxruntime", False)
    assert settings["origin"] is None, "it is the build's own version"


def test_all_that_publishing_needs_is_checked_before_training(
    tmp_path: Path, teacher: str, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "fit_named", lambda *_, **__: pytest.fail("it trained"))
    (tmp_path / "file").touch()
    server = tmp_path / "server"
    server.write_text("#!/bin/sh\nexit 127\n")
    server.chmod(0o755)

    def build(repository: Path, line: str = "bottle") -> None:
        build_module.build("exdd", dataset, line, repository=repository, recipe=small_recipe(teacher))

    with pytest.raises(OutputError, match="file is no folder"):
        build(tmp_path / "file")
    with pytest.raises(RecipeError, match="cannot name a line"):
        build(tmp_path / "r", "a b")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=59_000_000))
        with pytest.raises(OutputError, match="has 59 MB left, and publishing"):
            build(tmp_path / "r")
    monkeypatch.setenv("FLAWLINE_TRITONSERVER", str(server))
    with pytest.raises(ServerError, match="server cannot be run"):
        build(tmp_path / "r")
