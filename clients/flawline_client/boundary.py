"""The one place where whatever went wrong becomes one sentence, for every command of Flawline."""

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from flawline_client.folders import shown

STATUS = 2
"""Exit status of a command that could not do its work."""
DEBUG = "FLAWLINE_DEBUG"
"""Environment variable; set to anything, the traceback is shown before the sentence."""

_CURES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file, not a folder",
    errno.EACCES: "allow it there, or choose another place",
    errno.EPERM: "allow it there, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some space, or choose another place",
    errno.EFBIG: "choose a place that takes larger files",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "mend the link",
    errno.EXDEV: "keep both on one file system",
    errno.EIO: "look at the disk",
    errno.ESTALE: "mount it anew",
    errno.EMFILE: "allow more open files with `ulimit -n`",
    errno.ENFILE: "allow more open files",
    errno.EADDRINUSE: "choose another port",
    errno.ECONNREFUSED: "check the address and that something listens there",
    errno.ENOEXEC: "install it for this machine",
    errno.ENOMEM: "close other programs, or take a smaller --size or fewer pictures",
}
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|insufficient memory|failed to allocate", re.IGNORECASE
)
"""How torch, OpenCV and FAISS say it, in errors of their own."""


@contextmanager
def told_in_one_sentence(program: str, *known: type[Exception]) -> Iterator[None]:
    """Print an error as one sentence on standard error and leave with STATUS; Ctrl-C and exits pass.

    Args:
        program: what the sentence begins with.
        known: errors that are a sentence already, such as FlawlineError.

    """
    try:
        yield
    except Exception as error:  # the last place before the user
        if os.environ.get(DEBUG):
            traceback.print_exc()
        text = str(error) if isinstance(error, known) else sentence(error)
        sys.stderr.write(shown(f"{program}: {text}") + "\n")
        sys.exit(STATUS)


def sentence(error: Exception) -> str:
    """What happened and what helps, in one line: files by their name, memory, letters, missing packages, bugs."""
    kind, reason = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, MemoryError) or "OutOfMemory" in kind or _NO_MEMORY.search(reason):
        about = f" ({reason})" if reason else ""
        return (
            f"there is not enough memory{about}; take a smaller --size or fewer pictures, or another machine"
        )
    if isinstance(error, OSError):
        return _of_files(error, reason)
    if isinstance(error, UnicodeError):
        return (
            f"a text or file name holds letters that cannot be read or written here ({reason}); run the command "
            "with PYTHONUTF8=1, or rename the file"
        )
    if isinstance(error, ImportError) and error.name and not error.name.startswith("flawline"):
        return (
            f"the package '{error.name.partition('.')[0]}' is not installed or damaged ({reason}); install "
            "'flawline[train,serve]'"
        )
    return (
        f"an unexpected {kind} ({reason}); this is a bug of Flawline: run the command again with {DEBUG}=1, and "
        "report what it prints"
    )


def _of_files(error: OSError, reason: str) -> str:
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    cure = _CURES.get(error.errno or 0, "check it, and run the command again")
    return f"{': '.join([' and '.join(names), error.strerror or reason]).removeprefix(': ')}; {cure}"
