"""Manifests: what they say comes back, and every missing or strange file is named."""

import json
from pathlib import Path

import pytest
from small_lines import KEY, write_artefact

from flawline.artefact.manifest import (
    FILE,
    FORMAT,
    OLDEST,
    Origin,
    artefact_key,
    checked,
    hashes,
    read,
    sha256,
    verify,
)
from flawline.errors import ArtefactError

NOW = f'"format": {FORMAT}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_artefact(tmp_path / "artefact")
    return tmp_path / "artefact"


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = write_artefact(tmp_path / "a", "bottle", 3)
    assert read(tmp_path / "a") == verify(tmp_path / "a") == written
    assert written.artefact_key == KEY
    assert set(written.files) == {path.name for path in (tmp_path / "a").iterdir()} - {FILE}


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    for name in write_artefact(tmp_path / "whole").files:
        write_artefact(tmp_path / name)
        (tmp_path / name / name).unlink()
        with pytest.raises(ArtefactError, match=rf"/{name}: missing; build the line again or roll back"):
            verify(tmp_path / name)


def test_every_changed_file_is_named(tmp_path: Path) -> None:
    for name in write_artefact(tmp_path / "whole").files:
        write_artefact(tmp_path / name)
        content = bytearray((tmp_path / name / name).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / name / name).write_bytes(content)
        with pytest.raises(ArtefactError, match=rf"/{name}: damaged, changed by hand or from another build"):
            verify(tmp_path / name)


def test_a_file_of_another_build_is_named(tmp_path: Path, folder: Path) -> None:
    write_artefact(tmp_path / "other", version=2)
    (folder / "model.xml").write_bytes((tmp_path / "other" / "model.xml").read_bytes())
    with pytest.raises(ArtefactError, match=r"model\.xml: damaged, changed by hand or from another build"):
        verify(folder)


def test_files_in_folders_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "000.png").write_bytes(b"abc")
    assert hashes(tmp_path) == {"reference/000.png": sha256(tmp_path / "reference" / "000.png")}
    write_artefact(tmp_path / "a", files={"reference/000.png": "0"})
    with pytest.raises(ArtefactError, match=r"reference/000\.png: missing"):
        verify(tmp_path / "a")


@pytest.mark.parametrize("detector", ["sacd", "sacd+exdd"])
def test_what_parts_say_of_themselves_is_read(tmp_path: Path, detector: str) -> None:
    origin = Origin(version=2, change="calibrated for another budget")
    written = write_artefact(tmp_path / "a", "bottle", 3, detector, origin=origin)
    assert verify(tmp_path / "a") == written
    assert written.parts[0].training is not None
    assert written.parts[0].statements == {"Student": "sacd, 4 steps in 2 s"}
    assert written.origin == origin


def test_one_file_is_checked_alone(folder: Path) -> None:
    manifest = read(folder)
    (folder / "model.bin").write_text("something else")
    assert checked(folder, manifest, "model.onnx") == folder / "model.onnx"
    with pytest.raises(ArtefactError, match=r"model\.bin: damaged, changed by hand"):
        checked(folder, manifest, "model.bin")
    (folder / "more.bin").write_text("something that the build did not write")
    with pytest.raises(ArtefactError, match=r"more\.bin: damaged, changed by hand"):
        checked(folder, manifest, "more.bin")


def test_a_manifest_from_before_maps_were_compared_is_read(folder: Path) -> None:
    older = {
        "path": "fused",
        "pictures": 8,
        "max_score_difference": 1e-5,
        "rank_correlation": 1.0,
        "decisions_flipped": 0,
    }
    manifest = json.loads((folder / FILE).read_text()) | {"parity": [older]}
    (folder / FILE).write_text(json.dumps(manifest))
    (fact,) = read(folder).parity
    assert fact.model_dump(include=set(older)) == older
    compared = (fact.max_map_difference, fact.unexplained_mask_share, fact.boxes_without_counterpart)
    assert compared == (None, None, None), "not compared, which is not the same as no difference"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "the manifest cannot be read .*No such file"),
        (b"", "the manifest cannot be read"),
        (b"{", "the manifest cannot be read"),
        (b"\xff\xfe\x00", "the manifest cannot be read"),
        (b"[]", r"not a manifest \(Input should be"),
        (b"{%s}" % NOW.encode(), r"not a manifest \(line: Field required"),
        (b'{"format": "three"}', r"not a manifest \(format: Input should be a valid integer"),
    ],
    ids=["missing", "empty", "half", "binary", "list", "no fields", "format in words"],
)
def test_a_damaged_manifest_is_named(folder: Path, content: bytes | None, said: str) -> None:
    if content is None:
        (folder / FILE).unlink()
    else:
        (folder / FILE).write_bytes(content)
    for look in (read, verify):
        with pytest.raises(
            ArtefactError, match=rf"manifest\.json: {said}.*; build the line again$"
        ) as caught:
            look(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            NOW,
            f'"format": {FORMAT + 1}',
            f"has format {FORMAT + 1}, .* knows up to {FORMAT}; update Flawline$",
        ),
        (NOW, f'"format": {OLDEST - 1}', "kept neither weights nor settings; build the line again$"),
        ('"seed": 0', '"seed": 0, "mood": 1', r"\(mood: Extra inputs .*\); build the line again$"),
        (
            '"seed": 0',
            '"seed": "often"',
            r"\(seed: Input should be a valid integer.*\); build the line again$",
        ),
        ('"asked_false_alarm": 0.25', '"asked_false_alarm": []', r"\(calibration\.asked_false_alarm: "),
    ],
    ids=["newer", "older", "a field added by hand", "a field changed by hand", "a field within a field"],
)
def test_a_manifest_of_another_form_is_refused(folder: Path, old: str, new: str, said: str) -> None:
    text = (folder / FILE).read_text()
    assert old in text
    (folder / FILE).write_text(text.replace(old, new))
    with pytest.raises(ArtefactError, match=rf"/artefact/manifest\.json: .*{said}") as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_a_manifest_without_what_was_added_later_is_read(folder: Path) -> None:
    """Whatever is added to a format has a default."""
    content = json.loads((folder / FILE).read_text())
    del content["origin"]
    (folder / FILE).write_text(json.dumps(content))
    assert read(folder).origin is None


def test_the_digest_is_sha_256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_keys_tell_builds_apart_and_fit_the_tensor() -> None:
    keys = [artefact_key({"line": ["bottle", version], "banks": {"a": "b"}}) for version in range(200)]
    assert len(set(keys)) == 200
    assert all(0 <= part < 2**31 for key in keys for part in key)
    assert keys[7] == artefact_key({"banks": {"a": "b"}, "line": ["bottle", 7]}), "the order does not count"
