"""Searching a folder for pictures: every one in it and below it is found, or named with why it is left out."""

import errno
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jif",
    ".jfif",
    ".jfi",
    ".pjpeg",
    ".pjp",
    ".png",
    ".apng",
    ".bmp",
    ".dib",
    ".tif",
    ".tiff",
)
"""Names of the formats that are read: JPEG, PNG, BMP and TIFF. Compared in lower case, as all suffixes."""

_OTHERS = """
.webp .gif .heic .heif .hif .avif .jxl .jp2 .j2k .j2c .jpc .jpf .jpx .jpm .jxr .wdp .hdp .ico .cur .icns .tga .targa
.pcx .dcx .psd .psb .xcf .svg .svgz .eps .exr .hdr .pic .pbm .pgm .ppm .pnm .pam .pfm .sgi .rgb .rgba .bw .ras .sun
.xbm .xpm .dds .qoi .bpg .wmf .emf .fits .fit .fts .dcm .dicom .nii .npy .npz .mat .btf .tf8
.raw .dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .orf .rw2 .raf .pef .ptx .x3f .erf .mrw .kdc .dcr .rwl .iiq .3fr
.fff .mef .mos .gpr .srw .cap .eip .bay
"""
OTHER_SUFFIXES = frozenset(_OTHERS.split())
"""Pictures of formats that are not read."""

_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"GIF8")
"""First bytes of JPEG, PNG, TIFF and GIF files."""

_TOOLS = "__macosx @eadir @recycle @recently-snapshot #recycle #snapshot $recycle.bin lost+found __pycache__"
TOOL_FOLDERS = frozenset({*_TOOLS.split(), "system volume information"})
"""Folders that tools, file servers and operating systems make, in lower case; so are all hidden ones."""

NOT_READ = "format not read"
MISNAMED = "pictures by content, not by suffix"
TOOLS = "hidden or made by tools"
NOWHERE = "links that lead nowhere"
CIRCLE = "links that lead back to a folder above them"
NO_FILE = "pipes, sockets or devices"
"""Why something is left out of a search."""

TOLD = 2
"""Names that are told for each reason."""

Identity = tuple[int, int]
"""Device and number of a file or folder, whatever path or link leads to it."""


@dataclass(frozen=True)
class LeftOut:
    """A picture, or a link or folder that would lead to some, which is not used, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class Search:
    """What was found in a folder and below it: pictures that can be read, and what was left out, by path."""

    pictures: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]


def search(folder: Path, excluded: Path | None = None) -> Search:
    """Search a folder and all below it. Links are followed, and each folder is entered once, so no loop is endless.

    Args:
        folder: where to begin; its own name and those above it may be hidden.
        excluded: a folder that is not entered.

    Raises:
        OSError: a folder cannot be read; its `filename` names it.

    """
    pictures: list[Path] = []
    left_out: list[LeftOut] = []
    above = {identity(place) for place in (folder.resolve(), *folder.resolve().parents)}
    entered = {identity(folder)}
    if excluded is not None and excluded.is_dir():
        if identity(excluded) in above:
            return Search((), ())
        entered.add(identity(excluded))
    # Links wait until all else was entered, so that a folder keeps its own path where a link leads to it too.
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        if folders:
            place = folders.popleft()
        else:
            place = links.popleft()
            if identity(place) in entered:
                continue
            entered.add(identity(place))
        for path, status in _entries(place, left_out):
            own = (status.st_dev, status.st_ino)
            if not stat.S_ISDIR(status.st_mode):
                _sort_file(path, status, pictures, left_out)
            elif not path.is_symlink():
                if own not in entered:
                    entered.add(own)
                    folders.append(path)
            elif own in above:
                left_out.append(LeftOut(path, CIRCLE))
            else:
                links.append(path)
    return Search(tuple(sorted(pictures)), tuple(sorted(left_out, key=lambda each: each.path)))


def _entries(place: Path, left_out: list[LeftOut]) -> Iterator[tuple[Path, os.stat_result]]:
    """Entries of a folder, as what they lead to; what tools made and links to nowhere go to `left_out`."""
    for path in sorted(place.iterdir()):
        name = path.name
        if made_by_a_tool(name):
            if _is_picture_name(name) or _leads_to_pictures(path):
                left_out.append(LeftOut(path, TOOLS))
            continue
        try:
            status = path.stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                raise
            left_out.append(LeftOut(path, NOWHERE))
            continue
        yield path, status


def _sort_file(path: Path, status: os.stat_result, pictures: list[Path], left_out: list[LeftOut]) -> None:
    if not _is_picture_name(path.name):
        if stat.S_ISREG(status.st_mode) and _holds_picture(path):
            left_out.append(LeftOut(path, MISNAMED))
        return
    if not stat.S_ISREG(status.st_mode):
        left_out.append(LeftOut(path, NO_FILE))
    elif path.suffix.lower() in SUFFIXES:
        pictures.append(path)
    else:
        left_out.append(LeftOut(path, NOT_READ))


def identity(path: Path) -> Identity:
    """Return what tells a file or folder from others, whatever path or link leads to it."""
    status = path.stat()
    return status.st_dev, status.st_ino


def made_by_a_tool(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or made by a tool that is no camera."""
    return name.startswith(".") or name.lower() in TOOL_FOLDERS


def _is_picture_name(name: str) -> bool:
    suffix = Path(name).suffix.lower()
    return suffix in SUFFIXES or suffix in OTHER_SUFFIXES


def _holds_picture(path: Path) -> bool:
    """Whether a file begins as pictures do, whatever its name."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:  # nobody said that it is a picture
        return False
    return head.startswith(_BEGINNINGS) or head[8:] == b"WEBP"


def _leads_to_pictures(path: Path) -> bool:
    return any(_is_picture_name(name) for _, _, names in os.walk(path) for name in names)


def shown(path: Path | str) -> str:
    r"""Return a path as text that can be printed: bytes that are no UTF-8 as `\xfc`, line breaks as `\n`.

    Other paths are shown as they are.
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def tell(left_out: Iterable[LeftOut], folder: Path | None = None) -> str:
    """Count what was left out by reason, with TOLD names for each; empty where there is nothing.

    Args:
        left_out: what to tell of.
        folder: names are told as seen from here, where they lie below it.

    """
    names: dict[str, list[str]] = {}
    for each in left_out:
        below = folder is not None and each.path.is_relative_to(folder)
        path = each.path.relative_to(folder) if folder is not None and below else each.path
        names.setdefault(each.why, []).append(shown(path))
    return "; ".join(
        f"{why}: {len(paths)} ({', '.join([*paths[:TOLD], *['…'][: len(paths) - TOLD]])})"
        for why, paths in names.items()
    )
