"""The Triton model behind both memory-bank stages: one process holds the banks of all lines."""

from collections import OrderedDict
from pathlib import Path

import numpy as np

from flawline.artefact.manifest import FILE, read, sha256
from flawline.errors import ArtefactError
from flawline.scoring.knn import BankIndex
from flawline.serving import triton

Key = tuple[int, ...]
"""Manifest.artefact_key, as tensor ARTEFACT_KEY brings it."""


class BankShelf:
    """Banks by artefact key, found in the repository when first asked for, the least used dropped first."""

    def __init__(self, repository: Path, file: str, *, most: int, threads: int) -> None:
        self._repository, self._file, self._most, self._threads = repository, file, most, threads
        self._banks: OrderedDict[Key, BankIndex] = OrderedDict()

    def get(self, key: Key) -> BankIndex:
        """The bank of an artefact. Raises ArtefactError if it is not there or damaged."""
        if key not in self._banks:
            self._banks[key] = self._load(key)
            if len(self._banks) > self._most:
                self._banks.popitem(last=False)
        self._banks.move_to_end(key)
        return self._banks[key]

    def _load(self, key: Key) -> BankIndex:
        for path in self._repository.glob(f"*/*/{FILE}"):
            try:
                manifest = read(path.parent)
            except ArtefactError:  # of another line, whose own graph refuses it: it must not stop this one
                continue
            if manifest.artefact_key == key:
                bank = path.parent / self._file
                if manifest.files.get(self._file) != (sha256(bank) if bank.is_file() else None):
                    msg = f"{bank}: missing or damaged; build the line again or roll back"
                    raise ArtefactError(msg)
                return BankIndex.load(bank, threads=self._threads)
        msg = f"no artefact in {self._repository} has key {key}: graph and banks are from different builds"
        raise ArtefactError(msg)


class BankModel:
    """EMBEDDING FP32 [P, D] and ARTEFACT_KEY INT32 [2] -> DISTANCE and CROWDING FP32 [P]."""

    def initialize(self, args: dict[str, str]) -> None:
        """Prepare an empty shelf beside the server's models."""
        self.shelf = BankShelf(
            Path(args["model_repository"]).parent,
            triton.parameter(args, "BANK_FILE", ""),
            most=int(triton.parameter(args, "MAX_BANKS", "128")),
            threads=triton.threads(args),
        )

    def execute(self, requests: list[triton.Request]) -> list[triton.Response]:
        """One FAISS search per bank for all requests that ask it."""
        embeddings = [triton.array(request, "EMBEDDING") for request in requests]
        keys = [tuple(triton.array(request, "ARTEFACT_KEY")[0].tolist()) for request in requests]
        responses: list[triton.Response] = [None] * len(requests)
        for key in set(keys):
            members = [i for i, other in enumerate(keys) if other == key]
            try:
                index = self.shelf.get(key)
            except ArtefactError as error:
                for i in members:
                    responses[i] = triton.fail(str(error))
                continue
            patches = [embeddings[i].reshape(-1, index.dimensions) for i in members]
            found = index.search(np.concatenate(patches))
            counts = [len(part) for part in patches]
            pairs = zip(
                triton.split(found.distance, counts), triton.split(found.crowding, counts), strict=True
            )
            for i, (distance, crowding) in zip(members, pairs, strict=True):
                shape = embeddings[i].shape[:2]
                responses[i] = triton.answer(
                    DISTANCE=distance.reshape(shape), CROWDING=crowding.reshape(shape)
                )
        return responses
