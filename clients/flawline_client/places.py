"""Whether a place may be written: nothing that others made is written over."""

import os
import tempfile
from pathlib import Path

HEAD = 4096
"""Bytes of a file within which the mark of what made it stands."""


def is_free_or_bears(path: Path, mark: bytes) -> bool:
    """Tell whether `path` is free, or a file with a mark near its beginning.

    A link that leads nowhere is not free, and a file that cannot be read bears no mark.
    """
    if not os.path.lexists(path):
        return True
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return mark in file.read(HEAD)
    except OSError:
        return False


def what_forbids(folder: Path) -> str | None:
    """Say in words why a folder cannot be made or written; None where it can. Nothing is made yet."""
    existing = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    try:
        with tempfile.TemporaryFile(dir=existing):
            return None
    except OSError as error:
        why = "is no folder" if not existing.is_dir() else f"cannot be written ({error.strerror})"
        return f"{existing} {why}"
