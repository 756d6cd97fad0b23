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
        self._keys: dict[Path, tuple[int, Key | None]] = {}

    def get(self, key: Key) -> T:
        """Return the thing of an artefact. Raises ArtefactError if it is not there or damaged."""
        if key not in self._kept:
            self._kept[key] = self._load(*self._find(key))
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _find(self, key: Key) -> tuple[Path, Manifest]:
        paths = list(self._repository.glob(f"*/*/{FILE}"))
        self._keys = {path: self._keys[path] for path in paths if path in self._keys}
        for path in paths:
            if self._key_of(path) == key:
                return path.parent, read(path.parent)
        msg = f"no artefact in {self._repository} has key {key}: graph and artefact are of different builds"
        raise ArtefactError(msg)

    def _key_of(self, path: Path) -> Key | None:
        """Key in a manifest, read once as long as the file stays as it is: a request for no artefact costs little.

        None of another line's manifest that is damaged, whose own graph refuses it: it must not stop this one.
        """
        try:
            changed = path.stat().st_mtime_ns
            if self._keys.get(path, (None, None))[0] != changed:
                self._keys[path] = changed, None
                self._keys[path] = changed, read(path.parent).artefact_key
        except (OSError, ArtefactError):
            return None
        return self._keys[path][1]
