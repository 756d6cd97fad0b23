"""Writing files so that a reader finds the old content or the new one, never a part, and no file of others is lost.

Everything that Flawline writes for a user bears a mark near its beginning. A file that is there is replaced only if
it bears the mark of what replaces it, or if the caller has read it and knows it.
"""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from flawline.errors import FlawlineError, OutputError
from flawline.progress import say
from flawline_client.places import is_free_or_bears, what_forbids

SYNTHESIS = "Flawline synthesis"
"""Text chunk `Software` of synthesized pictures; overlays have one of their own, see flawline_client.overlay."""
SYNTHESIS_MARK = b"tEXtSoftware\0" + SYNTHESIS.encode()
HTML_MARK = b'<meta name="generator" content="Flawline'
JSON_MARK = b'"generator": "Flawline'
"""Of JSON objects; lists of results are known by the fields of their rows."""
_FULL = 1 << 20
"""Bytes left on a disk that is called full: a library may have failed at more than that, in one piece."""

Over = bytes | bool
"""What may be replaced: False nothing, bytes a file that bears this mark, True whatever is there."""


def may_replace(path: Path, over: Over) -> bool:
    """Tell whether `path` is free, or holds what may be replaced; a link that leads nowhere is not free."""
    if isinstance(over, bool):
        return over or not os.path.lexists(path)
    return is_free_or_bears(path, over)


def check_output(path: Path, option: str, over: Over = False) -> None:
    """Refuse, before any work is done, a file that cannot be written or must not be replaced.

    Args:
        path: file to write later.
        option: what names it on the command line.
        over: what may be replaced.

    Raises:
        OutputError: it is a folder, it is there and was not made by Flawline, or its folder cannot be written.

    """
    if path.is_dir():
        msg = f"{path} is a folder; give {option} the name of a file"
        raise OutputError(msg)
    if not may_replace(path, over):
        raise _foreign(path, f"choose another {option}")
    check_folder(path.parent, option)


def check_folder(folder: Path, option: str) -> None:
    """Refuse, before any work is done, a folder that cannot be made or written; nothing is made yet.

    Raises:
        OutputError: it is a file, below a file, or this user may not write there.

    """
    fault = what_forbids(folder)
    if fault is not None:
        msg = f"{option} {folder}: {fault}; name a place where you may write"
        raise OutputError(msg)


def check_space(folder: Path, needed: int, purpose: str) -> None:
    """Refuse, before any work is done, a disk without room.

    Args:
        folder: where something will be written; it need not be there yet.
        needed: bytes that it will take.
        purpose: what takes them, for the message.

    Raises:
        OutputError: less is free.

    """
    free = _free(folder)
    if free < needed:
        msg = (
            f"the disk of {folder} has {free / 1e6:.0f} MB left, and {purpose} takes about {needed / 1e6:.0f} MB; "
            "free some, or name a place on another disk"
        )
        raise OutputError(msg)


@contextmanager
def room_in(*folders: Path) -> Iterator[None]:
    """Say in one sentence that a disk is full, where a library failed at that: each says it in its own way.

    Raises:
        OutputError: something failed while the disk of one of the folders was full.

    """
    try:
        yield
    except FlawlineError:
        raise
    except Exception as error:
        folder = min(folders, key=_free)
        said = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not said and _free(folder) >= _FULL:
            raise
        msg = f"the disk of {folder} is full, with {_free(folder) / 1e6:.1f} MB left; free some and try again"
        raise OutputError(msg) from error


def cache_folder() -> Path:
    """Folder for what can be made again: `$XDG_CACHE_HOME/flawline`, or the same below `~/.cache`.

    A user without a home that can be written, as in many containers, gets a private one below that of temporary
    files.

    Raises:
        OutputError: that private folder cannot be made, or another user could write into it.

    """
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "flawline"
    with suppress(OSError, RuntimeError):  # RuntimeError: neither HOME nor an entry in the passwd file
        folder = Path.home() / ".cache" / "flawline"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    try:
        private = Path(tempfile.gettempdir()) / f"flawline-{os.getuid()}"
        private.mkdir(mode=0o700, exist_ok=True)
        found = private.lstat()
    except OSError as error:
        msg = f"there is no home and no folder for temporary files ({error}); set XDG_CACHE_HOME to a folder"
        raise OutputError(msg) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        msg = f"{private} can be written by other users, and programs lie there; set XDG_CACHE_HOME"
        raise OutputError(msg)
    return private


def _free(folder: Path) -> int:
    return shutil.disk_usage(
        next(place for place in (folder, *folder.absolute().parents) if place.exists())
    ).free


def check_distinct(outputs: Mapping[str, Path | None]) -> None:
    """Refuse to write two results to one file.

    Args:
        outputs: files to write, by the options that name them; None for those that are not written.

    Raises:
        OutputError: two of them are the same file.

    """
    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is not None and (other := seen.setdefault(path.resolve(), option)) != option:
            msg = f"{path}: two results would be written to this one file, by {other} and {option}; name another"
            raise OutputError(msg)


@contextmanager
def written_whole(path: Path, over: Over = False) -> Iterator[Path]:
    """Give a temporary sibling to write to, which takes the name `path` at the end; missing parents are made.

    Args:
        path: file to write.
        over: what may be replaced.

    Raises:
        OutputError: `path` is there and must not be replaced, or the disk is full.
        OSError: it cannot be written. The old file is as it was, and nothing lies beside it.

    """
    if not may_replace(path, over):
        raise _foreign(path, "name another file, or move this one away")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with room_in(path.parent):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def kept_if_possible(path: Path) -> Iterator[None]:
    """Go on where a file that would only save time later cannot be written, and say so: the work itself is done."""
    try:
        yield
    except (OSError, OutputError) as error:
        say(f"{path} cannot be written, and this goes on without it: {error}")


def write_atomically(path: Path, content: str, over: Over = False) -> None:
    """Write UTF-8 text to `path` as `written_whole` does; what is no text, as in names of files, is spelt out."""
    with written_whole(path, over) as temporary:
        temporary.write_text(content, encoding="utf-8", errors="backslashreplace")


def _foreign(path: Path, cure: str) -> OutputError:
    return OutputError(f"{path} is there and was not made by Flawline; {cure}")
