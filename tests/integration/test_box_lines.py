"""A line with boxes and named classes: built without good pictures, proved, served, asked, and read back."""

import json
from pathlib import Path

import numpy as np
import pytest
from asking import server_of
from drawn_boxes import KINDS, SIDE, draw

from flawline.data import Dataset, load_dataset
from flawline.detectors.fitted import FittedLine
from flawline.errors import DataError
from flawline.jobs.build import build
from flawline.jobs.derive import calibrate_line
from flawline.jobs.release import ReleasedLine, write_build_report
from flawline.recipe import Recipe
from flawline_client import Inspection, InspectionClient
from flawline_client.overlay import draw_overlay

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

TRAINING = {
    "steps": 120,
    "batch": 4,
    "learning_rate": 0.01,
    "backbone_rate": 1,
    "frozen": 0,
    "average": 0.9,
    "vary": {"scale": 0},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(f"voc:{draw(tmp_path_factory.mktemp('boxes') / 'drawn', 60)}")


@pytest.fixture(scope="module")
def built(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> ReleasedLine:
    recipe = Recipe.model_validate(
        {"teacher": "builtin", "size": SIDE, "d3n": {"width": 16, "precision": 0.7, "training": TRAINING}}
    )
    return build(
        "d3n", data, "boxes", repository=tmp_path_factory.mktemp("boxes") / "repository", recipe=recipe
    )


def test_every_path_gives_the_same_boxes(built: ReleasedLine) -> None:
    assert [fact.path for fact in built.manifest.parity] == [
        "graph",
        "target",
        "ensemble",
        "ensemble pixels",
        "fused",
    ]
    for fact in built.manifest.parity:
        assert (fact.decisions_flipped, fact.boxes_without_counterpart) == (0, 0)
        assert fact.min_box_iou is not None
        assert fact.min_box_iou > 0.99


def test_the_artefact_tells_classes_threshold_and_figures(built: ReleasedLine) -> None:
    assert built.manifest.classes == KINDS
    assert built.manifest.calibration.method == "labelled"
    assert built.manifest.data.learnt_normals == 0
    assert built.manifest.metrics is not None
    assert built.manifest.metrics["map50"] > 0.6


def test_clients_get_boxes_with_names(built: ReleasedLine, data: Dataset) -> None:
    repository = built.folder.parents[1]
    loaded, _ = FittedLine.load(built.folder)
    samples = data.test[:4]
    expected = loaded.inspect([sample.read_image() for sample in samples])
    with server_of(repository) as server, InspectionClient(server.grpc_url, timeout=60) as client:
        for line in ("boxes", "boxes_fused"):
            for sample, verdict in zip(samples, expected, strict=True):
                answer = client.inspect(line, sample.image)
                assert isinstance(answer, Inspection)
                used = verdict.boxes[verdict.boxes[:, 4] >= 0]
                np.testing.assert_allclose(answer.boxes, used, rtol=1e-3, atol=1e-2)
                assert answer.is_defect == verdict.is_defect
                told = json.loads(json.dumps(answer.to_json()))["boxes"]
                assert [box["name"] for box in told] == [KINDS[int(box["class"])] for box in told]
                if len(used):
                    assert draw_overlay(answer, sample.image).size[0] >= SIDE
        assert not answer.anomaly_map.any()


def test_its_report_shows_classes(built: ReleasedLine, tmp_path: Path) -> None:
    write_build_report(tmp_path / "report.html", built)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for told in (
        "mAP50",
        "What is taken for what",
        "Most wrong boxes",
        "nothing is promised of good pictures",
        "No promise",
        *KINDS,
    ):
        assert told in page
    for untrue in (
        "false-alarm budget",
        "From good pictures",
        "What another budget would give",
        "not measured",
    ):
        assert untrue not in page


def test_it_has_no_budget_to_change(built: ReleasedLine) -> None:
    with pytest.raises(DataError, match="calibrated without good pictures"):
        calibrate_line(built.folder.parents[1], "boxes", false_alarm=0.1)


def test_windows_over_wide_pictures_are_proved_and_served(tmp_path: Path) -> None:
    """Pictures of three squares, in windows of one, with and beside a bank: every path gives the same boxes."""
    data = load_dataset(f"voc:{draw(tmp_path / 'wide', 36, good=16, across=3)}")
    recipe = {
        "teacher": "builtin",
        "size": SIDE,
        "false_alarm": 0.2,
        "windows": {"overlap": 64},
        "d3n": {"width": 16, "training": TRAINING},
    }
    built = build(
        "d3n+exdd", data, "wide", repository=tmp_path / "repository", recipe=Recipe.model_validate(recipe)
    )
    assert built.manifest.windows is not None
    for fact in built.manifest.parity:
        assert (fact.decisions_flipped, fact.boxes_without_counterpart) == (0, 0)
    assert built.manifest.metrics is not None
    assert built.manifest.metrics["map50"] > 0.4
    sample = next(sample for sample in data.test if sample.is_defect)
    with (
        server_of(tmp_path / "repository") as server,
        InspectionClient(server.grpc_url, timeout=60) as client,
    ):
        answer = client.inspect("wide", sample.image)
    named = answer.boxes[answer.boxes[:, 5] < len(KINDS)]
    labels = sample.read_boxes() or ()
    right = [
        box
        for box in labels
        if any(
            KINDS[int(row[5])] == box.name and np.abs(row[:4] - np.array(box.corners)).max() < 16
            for row in named
        )
    ]
    assert len(right) >= len(labels) / 2
