"""Settings and calibration of an artefact: they come back as they were, or are refused by name."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_lines import KEY, SCORES, small_rules, write_artefact

from flawline.artefact.manifest import FILE, Manifest, hashes, read
from flawline.artefact.rules import CALIBRATION, SETTINGS, Rules
from flawline.errors import ArtefactError
from flawline.scoring.settings import Fusion, PartSettings

PARTS = (
    PartSettings(name="sacd", gives=("map",), sigma=1.5, top_share=0.0015, weight=0.3, level=0.7, peak=0.9),
    PartSettings(
        name="exdd", gives=("map", "score"), eight_bit_map=True, weight=0.1, options={"positive_weight": 0.3}
    ),
)


def rewritten(folder: Path) -> Manifest:
    """The manifest for the files as they are now."""
    manifest = read(folder).model_copy(update={"files": hashes(folder)})
    manifest.write(folder)
    return manifest


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    manifest = write_artefact(tmp_path / "a", detector="sacd+exdd")
    rules = small_rules(*PARTS, fusion="max", pixel_threshold=1.2345678901234567, false_alarm=0.0123)
    rules.save(tmp_path / "a")
    loaded = Rules.load(tmp_path / "a", rewritten(tmp_path / "a"))
    assert loaded.settings == rules.settings, "to the last digit"
    assert loaded.settings.fusion is Fusion.MAX
    calibration = loaded.calibration
    assert calibration.scores.dtype == calibration.peaks.dtype == np.float32
    assert calibration.scores.tolist() == list(SCORES)
    assert calibration.peaks.tolist() == [2 * score for score in SCORES]
    facts = manifest.calibration
    assert (calibration.method, calibration.asked_false_alarm) == (facts.method, facts.asked_false_alarm)


def test_another_user_may_read_them(tmp_path: Path) -> None:
    """The server of a container is another user than the one who builds."""
    small_rules(*PARTS).save(tmp_path)
    assert (tmp_path / CALIBRATION).stat().st_mode & 0o044 == 0o044


@pytest.mark.parametrize("file", [SETTINGS, CALIBRATION])
def test_rules_edited_by_hand_are_refused(tmp_path: Path, file: str) -> None:
    manifest = write_artefact(tmp_path / "a")
    path = tmp_path / "a" / file
    path.write_bytes(path.read_bytes().replace(b"2.0", b"9.0") + (b"" if file == SETTINGS else b"\0"))
    with pytest.raises(ArtefactError, match=rf"a/{file}: damaged, changed by hand or from another build"):
        Rules.load(tmp_path / "a", manifest)


@pytest.mark.parametrize("file", [SETTINGS, CALIBRATION])
def test_missing_rules_are_named(tmp_path: Path, file: str) -> None:
    manifest = write_artefact(tmp_path / "a")
    (tmp_path / "a" / file).unlink()
    with pytest.raises(ArtefactError, match=rf"a/{file}: missing; build the line again or roll back"):
        Rules.load(tmp_path / "a", manifest)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (SETTINGS, "{"),
        (SETTINGS, "{}"),
        (SETTINGS, '{"size": 128, "false_alarm": 2, "pixel_threshold": 1, "min_area": 1, "parts": []}'),
        (CALIBRATION, "no tensors"),
    ],
)
def test_rules_that_cannot_be_read_are_named_in_one_line(tmp_path: Path, file: str, content: str) -> None:
    """A build that wrote nonsense: its digest is right."""
    write_artefact(tmp_path / "a")
    (tmp_path / "a" / file).write_text(content)
    with pytest.raises(ArtefactError, match=rf"a/{file}: cannot be read .*; build the line again") as caught:
        Rules.load(tmp_path / "a", rewritten(tmp_path / "a"))
    assert "\n" not in str(caught.value)


def test_a_calibration_without_peaks_is_named(tmp_path: Path) -> None:
    write_artefact(tmp_path / "a")
    save_file({"scores": np.ones(3, np.float32)}, tmp_path / "a" / CALIBRATION)
    with pytest.raises(ArtefactError, match=rf"a/{CALIBRATION}: cannot be read .'peaks'"):
        Rules.load(tmp_path / "a", rewritten(tmp_path / "a"))


def test_a_stage_finds_the_settings_of_its_part(tmp_path: Path) -> None:
    manifest = write_artefact(tmp_path / "a", detector="sacd+exdd")
    rules = Rules.load(tmp_path / "a", manifest)
    assert rules.part_of("ratio_scoring", manifest).name == "exdd"
    student = write_artefact(tmp_path / "b", "nut", 2, detector="sacd")
    message = "line 'nut' version 2 has no part that stage 'ratio_scoring' serves"
    with pytest.raises(ArtefactError, match=message):
        Rules.load(tmp_path / "b", student).part_of("ratio_scoring", student)


def test_manifest_and_rules_are_of_one_artefact(tmp_path: Path) -> None:
    manifest = write_artefact(tmp_path / "a")
    assert {SETTINGS, CALIBRATION} <= set(manifest.files)
    assert FILE not in manifest.files
    assert manifest.artefact_key == KEY
