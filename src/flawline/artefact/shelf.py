"""What the stages of all lines share: parts of artefacts, found by key in the repository and kept."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from flawline.artefact.manifest import FILE, Manifest, read
from flawline.errors import ArtefactError

T = TypeVar("T")
Key = tuple[int, ...]
"""Manifest.artefact_key, as tensor ARTEFACT_KEY brings it."""


class Shelf(Generic[T]):
    """Things of artefacts by key, loaded when first asked for, the least used dropped first.

    Args:
        repository: Triton model repository.
        load: reads the thing from an artefact's folder; it checks the files that it reads.
        most: number of things kept.

    """

    def __init__(self, repository: Path, load: Callable[[Path, Manifest], T], *, most: int) -> None:
        self._repository, self._load, self._most = repository, load, most
        self._kept: OrderedDict[Key, T] = OrderedDict()

    def get(self, key: Key) -> T:
        """Return the thing of an artefact. Raises ArtefactError if it is not there or damaged."""
        if key not in self._kept:
            self._kept[key] = self._load(*self._find(key))
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _find(self, key: Key) -> tuple[Path, Manifest]:
        for path in self._repository.glob(f"*/*/{FILE}"):
            try:
                manifest = read(path.parent)
            except ArtefactError:  # of another line, whose own graph refuses it: it must not stop this one
                continue
            if manifest.artefact_key == key:
                return path.parent, manifest
        msg = f"no artefact in {self._repository} has key {key}: graph and artefact are of different builds"
        raise ArtefactError(msg)
