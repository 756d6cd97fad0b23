"""What is written whole, and what is never written over."""

import errno
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from small_lines import draw_line
from typer.testing import CliRunner

from flawline import demo
from flawline.cli import app
from flawline.data.splits import write_split
from flawline.errors import OutputError
from flawline.files import (
    HTML_MARK,
    JSON_MARK,
    cache_folder,
    check_distinct,
    check_folder,
    check_output,
    may_replace,
    write_atomically,
    written_whole,
)
from flawline.report.page import check_report_file
from flawline_client.overlay import OVERLAY_MARK, SOFTWARE

OURS = "<!DOCTYPE html>" + HTML_MARK.decode() + '">'


@pytest.fixture
def others(tmp_path: Path) -> list[Path]:
    """What lies in a user's folder and is none of our reports."""
    (tmp_path / "page.html").write_text("<!DOCTYPE html><title>mine</title>")
    (tmp_path / "late.html").write_text(" " * 5000 + OURS)
    (tmp_path / "empty").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "to_page").symlink_to(tmp_path / "page.html")
    os.mkfifo(tmp_path / "pipe")
    return [tmp_path / name for name in ("page.html", "late.html", "empty", "nowhere", "to_page", "pipe")]


def test_what_is_not_ours_stays_as_it_is(others: list[Path]) -> None:
    before = [(os.lstat(path).st_ino, os.lstat(path).st_size) for path in others]
    for path in others:
        with pytest.raises(
            OutputError, match=rf"{path.name} is there and was not made by Flawline; .*--report"
        ):
            check_report_file(path)
        for over in (False, HTML_MARK):
            with pytest.raises(OutputError, match=f"{path.name} is there and was not made by Flawline"):
                write_atomically(path, OURS, over=over)
    assert [(os.lstat(path).st_ino, os.lstat(path).st_size) for path in others] == before
    assert sorted(path.name for path in others[0].parent.iterdir()) == sorted(path.name for path in others)
    with pytest.raises(OutputError, match="/dev/null is there"):
        check_report_file(Path(os.devnull))


def test_what_is_ours_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    check_report_file(path)
    assert not path.parent.exists(), "a check makes nothing"
    for content in (OURS, OURS + "again"):
        write_atomically(path, content, over=HTML_MARK)
        assert path.read_text() == content
        check_report_file(path)
    assert may_replace(path, over=True)
    assert not may_replace(path, over=False)


def test_what_cannot_be_written_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(OURS)
    with pytest.raises(ValueError, match="half"), written_whole(path, HTML_MARK) as temporary:  # noqa: PT012
        temporary.write_text("half")
        msg = "half"
        raise ValueError(msg)
    assert path.read_text() == OURS
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_places_that_cannot_be_written_are_named_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"--report .*below: .*/file is no folder"):
        check_output(tmp_path / "file" / "below" / "report.html", "--report")
    with pytest.raises(OutputError, match=r"is a folder; give --report the name of a file"):
        check_output(tmp_path, "--report")
    with pytest.raises(OutputError, match=r"--checkpoint .*file is no folder"):
        check_folder(tmp_path / "file", "--checkpoint")
    with pytest.raises(OutputError, match=r"--checkpoint /proc/flawline: /proc cannot be written"):
        check_folder(Path("/proc/flawline"), "--checkpoint")


def test_two_results_do_not_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    check_distinct({"--report": path, "--scores": tmp_path / "other", "--json": None})
    with pytest.raises(OutputError, match="to this one file, by --report and --scores"):
        check_distinct({"--report": path, "--scores": tmp_path / "." / "out"})


def test_a_split_is_never_written_anew(tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("somebody's work")
    with pytest.raises(OutputError, match=r"split\.csv is there"):
        write_split(tmp_path, [])


@pytest.mark.parametrize("command", ["build", "evaluate"])
@pytest.mark.parametrize("option", ["--report", "--scores", "--json", "--checkpoint"])
def test_commands_refuse_before_they_read_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, option: str
) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"somebody's picture")
    arguments = ["exdd", "--data", f"folder:{tmp_path / 'nothing'}", option, str(picture)]
    if command == "build":
        if option == "--json":
            return
        arguments += ["--line", "tiles", "--repository", str(tmp_path / "repository")]
    result = CliRunner().invoke(app, [command, *arguments])
    assert isinstance(result.exception, Exception)
    assert "picture.png" in str(result.exception), "not the missing data"
    assert picture.read_bytes() == b"somebody's picture"
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_the_demo_refuses_before_it_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw_line(tmp_path / "drawn", normals=2, test_normals=1, test_defects=1, train_defects=0)
    monkeypatch.setattr(demo, "load_dataset", lambda spec: drawn)
    monkeypatch.setattr(demo, "build", lambda *_, **__: pytest.fail("it began to work"))
    for name in ("report.html", "summary.json", f"overlays/{demo._overlay_name(drawn.test[0])}"):
        place = tmp_path / "out" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("mine")
        with pytest.raises(OutputError, match=rf"{place.name} is there"):
            demo.demo(tmp_path / "out")
        place.unlink()


def test_the_demo_may_be_run_again(tmp_path: Path) -> None:
    """The marks of its three kinds of files, as they are written; reports have a test of their own."""
    summary = tmp_path / "summary.json"
    for _ in range(2):
        write_atomically(
            summary, json.dumps({"generator": "Flawline 0.1.0", "images": 1}, indent=2), JSON_MARK
        )
    told = PngInfo()
    told.add_text("Software", SOFTWARE)
    Image.new("RGB", (4, 4)).save(tmp_path / "overlay.png", pnginfo=told)
    check_output(tmp_path / "overlay.png", "--out", OVERLAY_MARK)


def test_the_cache_is_private_where_there_is_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/named")
    assert cache_folder() == Path("/proc/named/flawline"), "what the user names is taken"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "flawline"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    private = tmp_path / f"flawline-{os.getuid()}"
    monkeypatch.setenv("HOME", "/proc")
    assert cache_folder() == private, "a home that cannot be written"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700

    def nobody() -> Path:
        msg = "Could not determine home directory."
        raise RuntimeError(msg)

    monkeypatch.setattr(Path, "home", nobody)
    assert cache_folder() == private, "no HOME, and no entry in the passwd file"
    private.chmod(0o777)
    with pytest.raises(OutputError, match="can be written by other users, and programs lie there"):
        cache_folder()
    private.rmdir()
    private.symlink_to(tmp_path / "home")
    with pytest.raises(OutputError, match="set XDG_CACHE_HOME"):
        cache_folder()


@pytest.mark.parametrize(
    "error", [RuntimeError("basic_ios::clear: iostream error"), OSError(errno.ENOSPC, "full")]
)
def test_a_full_disk_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = tmp_path / "report.html"

    def write() -> None:
        with written_whole(path) as temporary:
            temporary.touch()
            raise error

    for free, full in ((1000, True), (10**9, isinstance(error, OSError))):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with pytest.raises(
            OutputError if full else RuntimeError, match="is full, with" if full else "basic_ios"
        ):
            write()
        assert list(tmp_path.iterdir()) == []
