"""Writing files so that a reader finds the old content or the new one, never a part."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
