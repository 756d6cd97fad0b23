"""Manifests: what they say comes back, and every missing or strange file is named."""

import json
from pathlib import Path

import pytest
from small_lines import KEY, write_artefact

from flawline.artefact.manifest import FILE, artefact_key, read, sha256, verify
from flawline.errors import ArtefactError


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
        with pytest.raises(ArtefactError, match=rf"/{name}: damaged or from another build"):
            verify(tmp_path / name)


def test_a_file_of_another_build_is_named(tmp_path: Path, folder: Path) -> None:
    write_artefact(tmp_path / "other", version=2)
    (folder / "model.xml").write_bytes((tmp_path / "other" / "model.xml").read_bytes())
    with pytest.raises(ArtefactError, match=r"model\.xml: damaged or from another build"):
        verify(folder)


@pytest.mark.parametrize("detector", ["sacd", "sacd+exdd"])
def test_what_a_student_adds_is_read(tmp_path: Path, detector: str) -> None:
    written = write_artefact(tmp_path / "a", "bottle", 3, detector)
    assert verify(tmp_path / "a") == written
    assert written.training is not None
    assert written.training.statement == "sacd, 4 steps in 2 s"


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
    "content",
    [None, b"", b"{", b"\xff\xfe\x00", b"[]", b'{"format": 1}'],
    ids=["missing", "empty", "half", "binary", "list", "no fields"],
)
def test_a_damaged_manifest_is_named(folder: Path, content: bytes | None) -> None:
    if content is None:
        (folder / FILE).unlink()
    else:
        (folder / FILE).write_bytes(content)
    for look in (read, verify):
        with pytest.raises(
            ArtefactError, match=r"manifest\.json: not a manifest of this version of Flawline"
        ):
            look(folder)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"format": 2', '"format": 3', "its format is 3, not 2"),
        ('"format": 2', '"format": 1', "format 1, whose graphs lack constants that today's stages need"),
        ('"seed": 0', '"seed": 0, "mood": 1', "Extra inputs"),
    ],
)
def test_a_manifest_of_another_form_is_refused(folder: Path, old: str, new: str, reason: str) -> None:
    text = (folder / FILE).read_text()
    assert old in text
    (folder / FILE).write_text(text.replace(old, new))
    with pytest.raises(ArtefactError, match=f"not a manifest of this version of Flawline .*{reason}"):
        read(folder)


def test_the_digest_is_sha_256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_keys_tell_builds_apart_and_fit_the_tensor() -> None:
    keys = [artefact_key({"line": ["bottle", version], "banks": {"a": "b"}}) for version in range(200)]
    assert len(set(keys)) == 200
    assert all(0 <= part < 2**31 for key in keys for part in key)
    assert keys[7] == artefact_key({"banks": {"a": "b"}, "line": ["bottle", 7]}), "the order does not count"
