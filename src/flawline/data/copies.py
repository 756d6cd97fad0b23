"""Exact copies among pictures, found by content whatever their names; few files are read to find them."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flawline.data.sample import Sample
from flawline.errors import DataError
from flawline_client.folders import shown

PROBE = 4096
"""Bytes of the beginning, the middle and the end of files of one size that are compared before all are."""


def alike(paths: Iterable[Path]) -> list[list[Path]]:
    """Group files of the same content, in their order; files without a copy, or that cannot be read, are in none.

    Files of one size are compared by parts, and only those that agree there as a whole.
    """
    groups = [list(paths)]
    for key in (_size, _parts, _content):
        groups = [part for group in groups for part in _parted(group, key)]
    return groups


def _parted(paths: Iterable[Path], key: Callable[[Path], Hashable]) -> list[list[Path]]:
    parts: dict[Hashable, list[Path]] = defaultdict(list)
    for path in paths:
        try:
            parts[key(path)].append(path)
        except OSError:  # what cannot be read is told elsewhere, with its reason
            continue
    return [part for part in parts.values() if len(part) > 1]


def _size(path: Path) -> int:
    return path.stat().st_size


def _parts(path: Path) -> tuple[bytes, ...]:
    size = path.stat().st_size
    with path.open("rb") as file:
        parts = []
        for start in (0, size // 2, max(0, size - PROBE)):
            file.seek(start)
            parts.append(file.read(PROBE))
    return tuple(parts)


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def originals(samples: Sequence[Sample]) -> dict[Sample, Sample]:
    """Map each sample whose picture is a copy of an earlier one to the first of them."""
    by_path = {sample.image: sample for sample in reversed(samples)}
    groups = alike(by_path[path].image for path in dict.fromkeys(sample.image for sample in samples))
    return {by_path[path]: by_path[group[0]] for group in groups for path in group[1:]}


@dataclass(frozen=True)
class Distinct:
    """Samples without copies of others, and the copies that were left out with what they are copies of."""

    samples: tuple[Sample, ...]
    copies: dict[Sample, Sample]


def distinct(samples: Sequence[Sample], *, sides: bool = True) -> Distinct:
    """Leave out copies, so that a picture counts once.

    A copy stays where the layout or split.csv names it and the first as one item, since items are counted, and
    where it shows a defect of another class.

    Args:
        samples: pictures of a line.
        sides: whether a picture that lies in train and in test is refused.

    Raises:
        DataError: a picture is good and defective, or lies on both sides of the split; both files are named.

    """
    first = originals(samples)
    for kind, differs in (
        ("good and defective", lambda one, other: one.is_defect != other.is_defect),
        ("in train and in test", lambda one, other: sides and one.split != other.split),
    ):
        pairs = [(first[copy], copy) for copy in first if differs(first[copy], copy)]
        if pairs:
            one, other = pairs[0]
            more = f" (and {len(pairs) - 1} more such pairs)" if len(pairs) > 1 else ""
            both = f"{shown(one.image)} and {shown(other.image)}"
            msg = f"{both} are the same picture, {kind}{more}; remove one of them"
            raise DataError(msg)
    left_out = {
        copy: one
        for copy, one in first.items()
        if copy.group != one.group and copy.defect_class == one.defect_class
    }
    return Distinct(tuple(sample for sample in samples if sample not in left_out), left_out)
