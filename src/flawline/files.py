"""Writing files so that a reader finds the old content or the new one, never a part."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flawline.errors import RecipeError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary sibling to write to, which takes the name `path` at the end; missing parents are made.

    Raises OSError, leaving the old file as it was and nothing beside it, when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str) -> None:
    """Write UTF-8 text to `path` as `written_whole` does; what is no text, as in names of files, is spelt out."""
    with written_whole(path) as temporary:
        temporary.write_text(content, encoding="utf-8", errors="backslashreplace")


def check_outputs(files: Mapping[str, Path | None]) -> None:
    """See that files can be written, before the work whose results they are to hold.

    Args:
        files: each with the option that names it; None for an option that was not given.

    Raises:
        RecipeError: one is a folder or something else than a file, cannot be written where it lies, or two are one.

    """
    options: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        if path.is_dir():
            msg = f"{path} is a folder; give {option} the name of a file"
            raise RecipeError(msg)
        if path.exists() and not path.is_file():
            msg = f"{path} is no regular file; give {option} the name of another one"
            raise RecipeError(msg)
        check_folder(path.parent, option)
        other = options.setdefault(path.resolve(), option)
        if other != option:
            msg = f"{path}: two results would be written to this one file; give {option} a file of its own"
            raise RecipeError(msg)


def check_folder(folder: Path, option: str) -> None:
    """Raise RecipeError unless a folder is there and can be written to, or can be made.

    `option` names it in the message.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        msg = f"{there} is a file, no folder can be made of it; give {option} another place"
        raise RecipeError(msg)
    if not os.access(there, os.W_OK | os.X_OK):
        msg = f"{there} cannot be written to; give {option} another place, or make this one writable"
        raise RecipeError(msg)
