"""What a build writes for each kind of line, and that it is loaded and judges as the line in eager torch did."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_lines import SIZE, draw_line, small_model, small_recipe, write_teacher

from flawline.artefact.manifest import Manifest
from flawline.artefact.served import NEGATIVE, POSITIVE, ServedLine
from flawline.data import Dataset
from flawline.jobs.build import write_artefact
from flawline.jobs.fit import DETECTORS, FittedLine, PositiveFacts, parse_detector
from flawline.recipe import Recipe
from flawline.scoring.calibration import Calibration
from flawline.scoring.ratio import ImageScore
from flawline.scoring.settings import Fusion, LineSettings
from flawline.training import Training

SCORES = np.linspace(0.1, 5, 40, dtype=np.float32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw_line(tmp_path_factory.mktemp("line"), normals=10, test_normals=2, test_defects=2)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


def fitted_line(teacher: str, detector: str) -> FittedLine:
    """A line that was not trained, with constants of its own for every part."""
    model = small_model(teacher, detector)
    student, has_memory = parse_detector(detector)
    settings = LineSettings(
        size=SIZE,
        false_alarm=0.1,
        pixel_threshold=0.5,
        sigma=2.0,
        min_area=4,
        image_score=ImageScore.MAP_PEAK,
        has_positive=has_memory,
        positive_weight=0.25,
        eight_bit_map=False,
        has_ratio=has_memory,
        has_discrepancy=student is not None,
        top_share=0.01,
        fusion=Fusion.PRODUCT,
        fusion_weight=0.3,
        discrepancy_level=0.7,
        ratio_level=1.7,
        discrepancy_peak=0.9,
        ratio_peak=2.1,
        discrepancy_sigma=1.5,
    )
    training = None if student is None else Training(4, 2.0, 0.0, (3.0, 2.0))
    calibration = Calibration("split", SCORES, 0.1, 0.1, 0.5)
    return FittedLine(model, settings, calibration, PositiveFacts(4, 0), training, 9, 1.0)


def write(folder: Path, teacher: str, detector: str, fitted: FittedLine, dataset: Dataset) -> Manifest:
    recipe: Recipe = small_recipe(teacher)
    return write_artefact(folder, fitted, dataset, detector, "bottle", recipe, "onnxruntime", 0, version=3)


@pytest.fixture
def no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting takes seconds, and most of these tests do not look at the graph."""
    monkeypatch.setattr("flawline.jobs.build.export_onnx", lambda _graph, _size, path: path.write_text(""))


def pictures(dataset: Dataset) -> list[NDArray[np.uint8]]:
    """Of several shapes, so that some have padding."""
    read = [sample.read_image() for sample in dataset.test]
    return [np.ascontiguousarray(pixels[: SIZE - 20 * number]) for number, pixels in enumerate(read)]


def test_a_student_alone_is_served_without_banks(tmp_path: Path, teacher: str, dataset: Dataset) -> None:
    fitted = fitted_line(teacher, "ddpm_ast")
    manifest = write(tmp_path / "artefact", teacher, "ddpm_ast", fitted, dataset)
    assert set(manifest.files) == {"model.onnx", "model.py"}
    served = ServedLine(tmp_path / "artefact", threads=1)
    assert (served.negative, served.positive) == (None, None)
    expected = fitted.inspect(pictures(dataset))
    for found, wanted in zip(served.inspect(pictures(dataset)), expected, strict=True):
        assert found.score == pytest.approx(wanted.score, rel=1e-4)
        assert (found.p_value, found.is_defect) == (wanted.p_value, wanted.is_defect)
        np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, rtol=1e-3, atol=1e-5)
    assert len({verdict.score for verdict in expected}) == len(expected)


@pytest.mark.usefixtures("no_graph")
@pytest.mark.parametrize("detector", DETECTORS)
def test_the_manifest_tells_of_the_parts(
    tmp_path: Path, teacher: str, dataset: Dataset, detector: str
) -> None:
    manifest = write(tmp_path / "a", teacher, detector, fitted_line(teacher, detector), dataset)
    student, has_memory = parse_detector(detector)
    assert {NEGATIVE, POSITIVE} & set(manifest.files) == ({NEGATIVE, POSITIVE} if has_memory else set())
    assert (manifest.patches, manifest.dimensions) == ((256, 28) if has_memory else (0, 0))
    assert manifest.discrepancy == ((32, 32) if student else None)
    assert ("4 labelled" in manifest.positive_bank) is has_memory
    assert (manifest.positive_bank == "no memory banks") is not has_memory
    assert (manifest.training and manifest.training.statement) == (student and f"{student}, 4 steps in 2 s")
    fused = "product with weights 0.3 (scores) and 0.5 (maps) of the discrepancy" in str(manifest.fusion)
    assert fused is (student is not None and has_memory)


@pytest.mark.usefixtures("no_graph")
def test_the_key_depends_on_all_that_answers(tmp_path: Path, teacher: str, dataset: Dataset) -> None:
    """The student's weights and the line's constants; and on nothing by chance."""
    fitted = fitted_line(teacher, "sacd+exdd")

    def key(name: str, line: FittedLine) -> tuple[int, int]:
        return write(tmp_path / name, teacher, "sacd+exdd", line, dataset).artefact_key

    first = key("first", fitted)
    assert key("again", fitted_line(teacher, "sacd+exdd")) == first
    nudged = fitted_line(teacher, "sacd+exdd")
    with torch.no_grad():
        next(iter(nudged.model.student.parameters())).view(-1)[0] += 1e-6  # type: ignore[union-attr]
    fusion = replace(fitted, settings=replace(fitted.settings, fusion_weight=0.31))
    assert len({first, key("weights", nudged), key("fusion", fusion)}) == 3
