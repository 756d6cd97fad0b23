import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from flawline_client import Inspection, InspectionError, Verdict
from flawline_client.cli import _row, find_pictures, inspect_command, overlay_targets


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("b.PNG", "a.jpg", "notes.txt", ".a.jpg", "deep/er/c.tiff", "out/old.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def ask(*arguments: object):
    app = typer.Typer()
    app.command()(inspect_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_folders_are_searched_and_files_taken_as_they_are(folder):
    found, left_out = find_pictures([folder, folder / "notes.txt"], excluded=folder / "out")
    assert [each.path.name for each in left_out] == [".a.jpg"]
    assert [below for _, below in found] == [
        Path("a.jpg"),
        Path("b.PNG"),
        Path("deep/er/c.tiff"),
        Path("notes.txt"),
    ]
    assert all(path.is_file() for path, _ in found)


def test_overlays_keep_the_folders_and_never_share_a_name():
    names = [Path("x/a.jpg"), Path("x/a.bmp"), Path("y/a.jpg"), Path("x/a-2.png")]
    targets = overlay_targets(names, Path("out"))
    assert targets == [
        Path("out/x/a.png"),
        Path("out/x/a-2.png"),
        Path("out/y/a.png"),
        Path("out/x/a-2-2.png"),
    ]


@pytest.mark.parametrize("failed", [False, True])
def test_a_row_of_the_table_can_be_printed_whatever_the_name(failed):
    name = os.fsdecode(b"gr\xfcn\n.png")
    if failed:
        row = _row(InspectionError(f"{name}: no", "INTERNAL", name))
    else:
        maps = np.zeros((4, 4), np.float32)
        row = _row(
            Inspection("bolts", name, 1.0, 0.5, Verdict.PASS, False, 1.0, maps, maps, np.zeros((0, 6)))
        )
    assert row[0].plain.startswith(r"gr\xfcn\n.png")
    assert row[0].plain.encode()


def test_folders_are_counted_and_what_is_left_out_is_named(folder):
    (folder / "x.webp").touch()
    os.mkfifo(folder / "pipe.png")
    done = ask("--line", "bolts", "--url", "127.0.0.1:9", "--timeout", "0.1", folder)
    assert done.stderr.startswith(
        "Pictures: 4 used, 3 left out. hidden or made by tools: 1 (.a.jpg); "
        "pipes, sockets or devices: 1 (pipe.png); format not read: 1 (x.webp).\n"
    )


def test_a_missing_picture_is_wrong_usage(tmp_path):
    done = ask("--line", "bolts", tmp_path / "gone.png")
    assert done.exit_code == 2
    assert "gone.png" in re.sub(r"[\s│]", "", done.stderr), "however the terminal breaks the line"


def test_a_folder_without_pictures_is_wrong_usage(tmp_path):
    done = ask("--line", "bolts", tmp_path)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"no picture in {tmp_path}")


def test_no_server_is_told_with_its_address(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    with socket.socket() as taken:  # bound but not listening: nothing will ever answer there
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        done = ask("--line", "bolts", "--url", url, "--timeout", "0.5", tmp_path)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert f"the server at {url} does not answer yet; it is asked again for 0.5 s" in done.stderr
    assert f"the server at {url} is not available" in done.stderr
    assert "flawline serve" in done.stderr


def originals(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("given", ["files", "folder", "all", "link", "file above"])
def test_pictures_are_never_drawn_over(tmp_path, given):
    """Nothing listens at the address: whoever asks first says so instead."""
    loss = tmp_path / "loss"
    loss.mkdir()
    for name in ("a.png", "b.png", "c.jpg"):
        Image.new("RGB", (20, 20)).save(loss / name)
    Image.new("RGB", (20, 20)).save(loss / "c.png")
    (tmp_path / "link").symlink_to(loss)
    before = originals(tmp_path)
    asked, overlay, named = {
        "files": ([loss / "a.png", loss / "b.png"], loss, "a.png is one of the pictures to inspect"),
        "folder": ([loss / "c.jpg"], loss, "c.png is there and is no overlay of Flawline"),
        "all": ([loss], loss, "all pictures lie in"),
        "link": ([loss / "a.png"], tmp_path / "link", "a.png is one of the pictures to inspect"),
        "file above": ([loss / "a.png"], loss / "b.png" / "below", "b.png is no folder"),
    }[given]
    done = ask("--line", "bolts", "--url", "127.0.0.1:1", "--overlay", overlay, *asked)
    assert done.exit_code == 2
    assert named in done.stderr
    assert "choose another --overlay folder" in done.stderr
    assert originals(tmp_path) == before


def test_names_that_differ_in_case_alone_are_numbered():
    assert overlay_targets([Path("A.jpg"), Path("a.jpg")], Path("out")) == [
        Path("out/A.png"),
        Path("out/a-2.png"),
    ]
