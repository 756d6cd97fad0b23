"""Artefacts of every format from 3 on are loaded, changed and served, whatever has been added since."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import image, server_of
from outgoing import outgoing
from tritonclient.grpc import InferenceServerClient

from flawline.artefact.manifest import FILE, FORMAT, read
from flawline.artefact.served import ServedLine
from flawline.detectors.fitted import FittedLine
from flawline.errors import ArtefactError
from flawline.jobs.derive import calibrate_line
from flawline.privacy import SILENT
from flawline.repository import names, publish
from flawline.repository.model_config import ModelConfig
from flawline.repository.publish import list_lines
from flawline.scoring.picture import decode
from flawline_client import InspectionClient, Verdict

FROZEN = Path(__file__).parents[1] / "frozen"
FORMATS = sorted(FROZEN.glob("format_*"))


def answers_of(home: Path) -> dict[str, Any]:
    return json.loads((home / "answers.json").read_text())


def pictures_of(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((home / "artefact" / "reference").iterdir())}


def test_todays_format_is_among_them() -> None:
    assert [home.name for home in FORMATS][-1] == f"format_{FORMAT}"


@pytest.mark.parametrize("home", FORMATS, ids=lambda home: home.name)
def test_it_is_loaded_and_answers_as_when_it_was_built(home: Path) -> None:
    line, manifest = FittedLine.load(home / "artefact")
    served = ServedLine(home / "artefact", threads=1)
    assert manifest.detector == "sacd+exdd"
    for name, content in pictures_of(home).items():
        expected = answers_of(home)[name]
        for answering in (line, served):
            (verdict,) = answering.inspect([decode(content)])
            assert verdict.score == pytest.approx(expected["score"], rel=1e-4)
            assert verdict.p_value == pytest.approx(expected["p_value"])
            assert verdict.decision == (2 if expected["is_defect"] else 0)
            assert verdict.anomaly_map.max() == pytest.approx(expected["peak"], rel=1e-3)
            boxes = verdict.boxes[verdict.boxes[:, 4] >= 0]
            np.testing.assert_allclose(boxes, np.array(expected["boxes"]).reshape(-1, 6), rtol=1e-2, atol=1)


@pytest.mark.server
@pytest.mark.timeout(600)
@pytest.mark.parametrize("home", FORMATS, ids=lambda home: home.name)
def test_it_is_served_and_gets_another_budget(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    folder = repository / names.discrepancy("frozen") / "1"
    shutil.copytree(home / "artefact", folder)
    publish.place_shared_stages(repository)
    publish.write_models(repository, read(folder), folder)
    assert [status.problem for status in list_lines(repository)] == [None]
    with outgoing(tmp_path) as counted, monkeypatch.context() as patch:
        for name in SILENT:  # as where a server was started otherwise than by Flawline
            patch.delenv(name, raising=False)
        for name, value in counted.environment.items():
            patch.setenv(name, value)
        _ask_frozen(home, repository)
        assert (counted.requests, counted.kept()) == ([], []), "a stage reports what it does"
    released = calibrate_line(repository, "frozen", look_again=0.75)
    facts = released.manifest.calibration
    assert (released.manifest.version, facts.false_alarm) == (2, read(folder).calibration.false_alarm)
    assert (facts.asked_look_again, facts.look_again) == (0.75, 0.75)
    assert released.manifest.origin is not None
    assert released.manifest.origin.version == 1
    assert all(fact.decisions_flipped == 0 for fact in released.manifest.parity)
    with server_of(repository) as server, InferenceServerClient(server.grpc_url) as client:
        result = client.infer("frozen", [image(pictures_of(home)["001.png"])])
        assert result.as_numpy("P_VALUE").item() == pytest.approx(0.7)
        assert (result.as_numpy("VERDICT").item(), result.as_numpy("IS_DEFECT").item()) == (1, False)


def _ask_frozen(home: Path, repository: Path) -> None:
    with server_of(repository) as server, InferenceServerClient(server.grpc_url) as client:
        for name, content in pictures_of(home).items():
            for model in ("frozen", "frozen_fused"):
                result = client.infer(model, [image(content)])
                expected = answers_of(home)[name]
                assert result.as_numpy("SCORE").item() == pytest.approx(expected["score"], rel=1e-4)
                assert result.as_numpy("IS_DEFECT").item() is expected["is_defect"]
                assert result.as_numpy("VERDICT").item() == (2 if expected["is_defect"] else 0)


@pytest.mark.server
@pytest.mark.timeout(600)
@pytest.mark.parametrize("home", FORMATS, ids=lambda home: home.name)
def test_models_that_were_published_with_two_answers_are_served_and_understood(
    home: Path, tmp_path: Path
) -> None:
    """Their configurations know no VERDICT; the shared stages of today bring it."""
    repository = tmp_path / "repository"
    folder = repository / names.discrepancy("frozen") / "1"
    shutil.copytree(home / "artefact", folder)
    publish.place_shared_stages(repository)
    publish.write_models(repository, read(folder), folder)
    for model in ("frozen", "frozen_pixels", "frozen_fused"):
        path = repository / model / publish.CONFIG
        config = ModelConfig.from_pbtxt(path.read_text())
        outputs = tuple(tensor for tensor in config.outputs if tensor.name != "VERDICT")
        steps = tuple(
            step.model_copy(update={"outputs": {k: v for k, v in step.outputs.items() if k != "VERDICT"}})
            for step in config.ensemble_steps
        )
        older = config.model_copy(update={"outputs": outputs, "ensemble_steps": steps})
        path.write_text(older.to_pbtxt())
    with server_of(repository) as server, InspectionClient(server.grpc_url) as client:
        for name, content in pictures_of(home).items():
            for model in ("frozen", "frozen_fused"):
                answer = client.inspect(model, content)
                expected = answers_of(home)[name]["is_defect"]
                assert (answer.is_defect, answer.verdict) == (
                    expected,
                    Verdict.REJECT if expected else Verdict.PASS,
                )


def test_a_newer_one_asks_for_a_newer_flawline(tmp_path: Path) -> None:
    shutil.copytree(FORMATS[-1] / "artefact", tmp_path / "artefact")
    manifest = tmp_path / "artefact" / FILE
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "format": FORMAT + 1, "more": 1}))
    with pytest.raises(ArtefactError, match=rf"has format {FORMAT + 1}, .*update Flawline"):
        FittedLine.load(tmp_path / "artefact")


def test_settings_that_were_edited_by_hand_are_refused(tmp_path: Path) -> None:
    shutil.copytree(FORMATS[-1] / "artefact", tmp_path / "artefact")
    settings = tmp_path / "artefact" / "settings.json"
    settings.write_text(settings.read_text().replace('"false_alarm": 0.1', '"false_alarm": 0.5'))
    for load in (FittedLine.load, lambda folder: ServedLine(folder, threads=1)):
        with pytest.raises(
            ArtefactError, match=r"settings\.json: damaged, changed by hand or from another build"
        ):
            load(tmp_path / "artefact")
