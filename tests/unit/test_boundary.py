"""Whatever goes wrong in a command is one sentence with status 2, and a traceback only for those who ask for it."""

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flawline import cli, demo
from flawline.cli import main
from flawline.repository import publish
from flawline_client.boundary import DEBUG, sentence


def refused_by_torch() -> Exception:
    try:
        torch.empty(1 << 60)
    except RuntimeError as error:
        return error
    raise AssertionError


def refused_by_numpy() -> Exception:
    try:
        np.empty(1 << 58)
    except MemoryError as error:
        return error
    raise AssertionError


ERRORS = {
    "full disk": (
        OSError(errno.ENOSPC, "No space left on device", "out/a.html"),
        "out/a.html: No space left",
    ),
    "permission": (
        PermissionError(errno.EACCES, "Permission denied", b"b.json"),
        "b.json: Permission denied; allow",
    ),
    "two files": (
        OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"),
        "a and b: Invalid cross",
    ),
    "no number": (OSError("image file is truncated"), "image file is truncated; check it"),
    "strange name": (
        FileNotFoundError(2, "No such file", "\udcff.png"),
        "\\xff.png: No such file; check",
    ),
    "numpy": (refused_by_numpy(), "there is not enough memory (Unable to allocate"),
    "torch": (refused_by_torch(), "there is not enough memory ("),
    "memory": (MemoryError(), "there is not enough memory; take a smaller --size"),
    "letters": (
        UnicodeEncodeError("ascii", "\udcff", 0, 1, "ordinal not in range(128)"),
        "a text or file name holds letters that cannot be read or written here",
    ),
    "package": (
        ModuleNotFoundError("No module named 'jinja2.ext'", name="jinja2.ext"),
        "the package 'jinja2' is not installed or damaged (No module named 'jinja2.ext'); install 'flawline[train",
    ),
    "bug": (
        KeyError("grid\nof"),
        f"an unexpected KeyError ('grid\\nof'); this is a bug .* {DEBUG}=1",
    ),
}


def leave(monkeypatch: pytest.MonkeyPatch, error: Exception) -> object:
    def fail(repository: Path) -> None:
        raise error

    monkeypatch.setattr(publish, "list_lines", fail)
    monkeypatch.setattr(sys, "argv", ["flawline", "lines"])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    error, said = ERRORS[name]
    monkeypatch.delenv(DEBUG, raising=False)
    assert leave(monkeypatch, error) == 2
    out, told = capsys.readouterr()
    assert out == ""
    assert told.count("\n") == 1
    head, _, tail = said.partition(" .* ")
    assert told.startswith(f"flawline: {head}")
    assert tail in told


def test_a_traceback_is_shown_to_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DEBUG, "1")
    assert leave(monkeypatch, KeyError("grid")) == 2
    told = capsys.readouterr().err
    assert "Traceback (most recent call last)" in told
    assert "in fail" in told
    assert told.splitlines()[-1].startswith("flawline: an unexpected KeyError ('grid')")


def test_an_error_of_a_missing_module_of_flawline_is_a_bug() -> None:
    assert "a bug" in sentence(ModuleNotFoundError("No module named 'flawline.x'", name="flawline.x"))


SURFACES = ("--data", "surfaces")
BUILD = ("build", "exdd", "--line", "bottle", *SURFACES)
EVALUATE = ("evaluate", "exdd", *SURFACES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*BUILD, "--report", "folder"), "folder is a folder; give --report the name of a file"),
        ((*EVALUATE, "--report", "folder"), "folder is a folder; give --report the name of a file"),
        ((*EVALUATE, "--json", "folder"), "folder is a folder; give --json the name of a file"),
        ((*BUILD, "--scores", "folder"), "folder is a folder; give --scores the name of a file"),
        (
            (*BUILD, "--report", "notes.txt/a.html"),
            "notes.txt is no folder; name a place where you may write",
        ),
        (
            (*BUILD, "--report", "notes.txt"),
            "notes.txt is there and was not made by Flawline; choose another --report",
        ),
        ((*EVALUATE, "--json", "notes.txt"), "notes.txt: not a JSON file"),
        (
            (*EVALUATE, "--json", "a", "--report", "a"),
            "a: two results would be written to this one file",
        ),
        ((*BUILD, "--scores", "a/split.csv"), "would be read as the split of the pictures beside it"),
        ((*BUILD, "--report", "pipe"), "pipe is there and was not made by Flawline; choose another --report"),
        (
            (*BUILD, "--checkpoint", "notes.txt"),
            "notes.txt is no folder; name a place where you may write",
        ),
        (
            ("synthesize", *SURFACES, "--out", "notes.txt"),
            "notes.txt is no folder; name a place where you may write",
        ),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("notes.txt").write_text("mine")
    os.mkfifo("pipe")
    monkeypatch.setattr("flawline.data.load_dataset", lambda *_, **__: pytest.fail("the work had begun"))
    monkeypatch.setattr(
        "flawline.jobs.evaluate.load_dataset", lambda *_, **__: pytest.fail("the work had begun")
    )
    monkeypatch.setattr(sys, "argv", ["flawline", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert said in told
    assert Path("notes.txt").read_text() == "mine"


def test_a_place_without_permission_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> None:  # root may write anywhere
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("flawline_client.places.tempfile.TemporaryFile", refuse)
    monkeypatch.setattr(sys, "argv", ["flawline", *EVALUATE, "--json", str(tmp_path / "new" / "a.json")])
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr().err
    assert f"{tmp_path} cannot be written (Permission denied); name a place where you may write" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*BUILD, "--seed", "99999999999999999999"), "--seed"),
        ((*BUILD, "--seed", "-1"), "--seed"),
        ((*EVALUATE, "--seeds", "0,4294967296"), "none below 0 or above 4294967295"),
        (("serve", "--grpc-port", "70000"), "--grpc-port"),
        (("rollback", "--line", "a", "--to", "0"), "--to"),
        (("synthesize", *SURFACES, "--out", "o", "--count", "1000000000"), "--count"),
        (("inspect", "--line", "a", "--timeout", "nan", "."), "--timeout"),
        (("inspect", "--line", "a", "--timeout", "inf", "."), "--timeout"),
        (("inspect", "--line", "a", "--url", "http://127.0.0.1:8001", "."), "is no HOST:PORT"),
        (("inspect", "--line", "a", "--url", "dns:///pods", "."), "is no HOST:PORT"),
        (("inspect", "--line", "a", "--url", "127.0.0.1:70000", "."), "give a port of 1 to 65535"),
    ],
)
def test_options_have_bounds(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(sys, "argv", ["flawline", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_the_demo_tells_in_one_sentence_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["demo", "--out", str(tmp_path / "notes.txt")])
    with pytest.raises(SystemExit) as end:
        demo.run()
    assert end.value.code == 2
    assert "notes.txt is no folder; name a place where you may write" in capsys.readouterr().err
    assert cli.MOST_SEED == 2**32 - 1
