"""What the shared stages keep of artefacts: found by key, the least used dropped, others' damage ignored."""

import shutil
from pathlib import Path

import pytest
from small_lines import write_artefact

from flawline.artefact import shelf as shelf_module
from flawline.artefact.manifest import FILE, Manifest, checked, read
from flawline.artefact.shelf import Shelf
from flawline.errors import ArtefactError


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three lines; the key of line `cap` is (3, 3), of `nut` (2, 2), of `bottle`'s versions (1, 1) and (1, 2)."""
    for line, version, key in (
        ("bottle", 1, (1, 1)),
        ("bottle", 2, (1, 2)),
        ("nut", 1, (2, 2)),
        ("cap", 1, (3, 3)),
    ):
        write_artefact(
            tmp_path / f"{line}_discrepancy" / str(version), line, version, fused=False, artefact_key=key
        )
    return tmp_path


class Loaded:
    """Stands for what a stage loads; notes which artefacts were loaded, in their order."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, folder: Path, manifest: Manifest) -> str:
        self.names.append(f"{manifest.line} {manifest.version}")
        return checked(folder, manifest, "model.onnx").read_text()


def test_a_thing_is_found_by_its_key_and_loaded_once(repository: Path) -> None:
    loaded = Loaded()
    shelf = Shelf(repository, loaded, most=4)
    for _ in range(3):
        assert shelf.get((1, 2)) == "model.onnx of bottle 2"
        assert shelf.get((1, 1)) == "model.onnx of bottle 1"
    assert loaded.names == ["bottle 2", "bottle 1"]


def test_the_least_used_thing_is_dropped(repository: Path) -> None:
    loaded = Loaded()
    shelf = Shelf(repository, loaded, most=2)
    for key in ((1, 1), (2, 2), (1, 1), (3, 3), (1, 1), (2, 2)):
        shelf.get(key)
    assert loaded.names == ["bottle 1", "nut 1", "cap 1", "nut 1"], "bottle was used in between, nut was not"


def test_a_version_published_later_is_found(repository: Path) -> None:
    shelf = Shelf(repository, Loaded(), most=2)
    shelf.get((1, 1))
    write_artefact(repository / "nut_discrepancy" / "2", "nut", 2, artefact_key=(2, 3))
    assert shelf.get((2, 3)) == "model.onnx of nut 2"


@pytest.mark.parametrize("content", ["", "{", '{"format": 1}', "[]"])
def test_a_damaged_manifest_of_another_line_does_not_matter(repository: Path, content: str) -> None:
    (repository / "nut_discrepancy" / "1" / FILE).write_text(content)
    shelf = Shelf(repository, Loaded(), most=2)
    assert shelf.get((1, 1)) == "model.onnx of bottle 1"
    assert shelf.get((3, 3)) == "model.onnx of cap 1"
    with pytest.raises(ArtefactError, match=r"no artefact in .* has key \(2, 2\)"):
        shelf.get((2, 2))


def test_an_unknown_key_is_said(repository: Path) -> None:
    shelf = Shelf(repository, Loaded(), most=2)
    message = r"no artefact in .* has key \(7, 8\): graph and artefact are of different builds"
    with pytest.raises(ArtefactError, match=message):
        shelf.get((7, 8))


def test_what_could_not_be_loaded_is_asked_for_again(repository: Path) -> None:
    shelf = Shelf(repository, Loaded(), most=2)
    path = repository / "bottle_discrepancy" / "1" / "model.onnx"
    whole = path.read_bytes()
    path.write_bytes(b"damaged")
    with pytest.raises(ArtefactError, match=r"model\.onnx: damaged"):
        shelf.get((1, 1))
    path.write_bytes(whole)
    assert shelf.get((1, 1)) == "model.onnx of bottle 1"


def test_a_key_of_no_artefact_costs_no_reading(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends such keys to a stage that all lines share must not hold up the others."""
    (repository / "nut_discrepancy" / "1" / FILE).write_text("{")
    reads: list[str] = []

    def counted(folder: Path) -> Manifest:
        reads.append(folder.parent.name)
        return read(folder)

    monkeypatch.setattr(shelf_module, "read", counted)
    shelf = Shelf(repository, Loaded(), most=2)
    for number in range(5):
        with pytest.raises(ArtefactError, match="has key"):
            shelf.get((9, number))
    assert sorted(reads) == ["bottle_discrepancy", "bottle_discrepancy", "cap_discrepancy", "nut_discrepancy"]
    shutil.rmtree(repository / "nut_discrepancy" / "1")
    write_artefact(repository / "nut_discrepancy" / "1", "nut", 1, artefact_key=(9, 0))
    assert shelf.get((9, 0)) == "model.onnx of nut 1", "a file that changed is read again"
