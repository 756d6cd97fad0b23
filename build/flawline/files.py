"""Writing files so that a reader finds the old content or the new one, never a part."""

import os
from pathlib import Path


def write_atomically(path: Path, content: str) -> None:
    """Write UTF-8 text to `path` through a temporary sibling; missing parent folders are made.

    Raises OSError, leaving the old file as it was, when the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
