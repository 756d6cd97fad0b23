"""Things found by name: those that come along, those of other packages, and what is said of all others."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flawline.detectors.part import PARTS, parse_detector
from flawline.errors import RecipeError
from flawline.registry import Registry, forget

GROUP = "flawline.test_things"
THINGS: Registry[object] = Registry(
    GROUP,
    "thing",
    {"path": "pathlib:Path", "gone": "no_such_package:thing", "counter": "collections:Counter"},
)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Another package that registers things, one of them under a name that is taken, and a detector."""
    described = tmp_path / "other_things-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: other-things\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(
        f"[{GROUP}]\nzebra = other_things:ZEBRA\npath = other_things:IMPOSTOR\n"
        "lame = other_things_without_its_package:THING\nempty = other_things:NOTHING\n"
        "[flawline.parts]\nexdd = other_things:IMPOSTOR\nboxer = other_things:Boxer\n"
        "twin = other_things:Twin\nthird = other_things:Third\n"
    )
    (tmp_path / "other_things.py").write_text(
        "ZEBRA, IMPOSTOR = 'zebra', 'impostor'\n"
        "class Boxer:\n    name, outputs, gives, stage = 'boxer', ('FRAMES',), {'boxes': 'FRAMES'}, None\n"
        "class Third:\n    name, outputs, gives, stage = 'third', ('SPOTS',), {'map': 'SPOTS'}, None\n"
        "class Twin:\n    name, outputs, gives, stage = 'twin', ('BITS',), {'map': 'RATIO_MAP'}, 'other'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield tmp_path
    forget()
    sys.modules.pop("other_things", None)


def test_what_comes_along_is_found(installed: Path) -> None:
    assert THINGS.get("path") is Path


def test_other_packages_add_theirs_behind(installed: Path) -> None:
    assert THINGS.names() == ("path", "gone", "counter", "empty", "lame", "zebra")
    assert THINGS.get("zebra") == "zebra"


def test_no_other_package_replaces_what_comes_along(installed: Path) -> None:
    assert THINGS.get("path") is Path
    assert PARTS.get("exdd").__module__ == "flawline.detectors.exdd.part"
    assert PARTS.names()[:3] == ("exdd", "sacd", "ddpm_ast")


def test_an_unknown_name_is_told_with_those_that_there_are(installed: Path) -> None:
    message = (
        r"^unknown thing 'zebu'; there are: path, gone, counter, empty, lame, zebra "
        r"\(if it comes from another package, install that package\)$"
    )
    with pytest.raises(RecipeError, match=message):
        THINGS.get("zebu")


@pytest.mark.parametrize("name", ["gone", "lame", "empty"])
def test_a_thing_whose_package_is_missing_or_lacks_it_says_so(installed: Path, name: str) -> None:
    with pytest.raises(RecipeError, match=rf"^thing '{name}' cannot be imported \(.*\); install what"):
        THINGS.get(name)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("exdd", ["exdd"]),
        ("sacd+exdd", ["sacd", "exdd"]),
        ("exdd + ddpm_ast", ["exdd", "ddpm_ast"]),
        ("boxer+exdd+sacd", ["boxer", "exdd", "sacd"]),
    ],
)
def test_a_detector_is_parts_in_the_order_of_its_name(installed: Path, text: str, names: list[str]) -> None:
    assert [part.name for part in parse_detector(text)] == names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exd", r"unknown detector 'exd'; there are: exdd, sacd, ddpm_ast, d3n, segmenter, boxer"),
        ("", r"unknown detector ''"),
        ("exdd+", r"unknown detector ''"),
        ("exdd+exdd", r"detector 'exdd\+exdd': name each of at most 3 detectors once"),
        (
            "exdd+sacd+boxer+third",
            r"detector 'exdd\+sacd\+boxer\+third': name each of at most 3 detectors once",
        ),
        ("sacd+ddpm_ast", "detectors sacd and ddpm_ast do not go together: both give DISCREPANCY"),
        ("twin+exdd", "detectors twin and exdd do not go together: both give RATIO_MAP"),
    ],
)
def test_detectors_that_cannot_be_are_refused(installed: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_detector(text)
