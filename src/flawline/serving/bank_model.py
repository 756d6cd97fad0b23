"""The Triton model behind both memory-bank stages: one process holds the banks of all lines."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from flawline.artefact.manifest import Manifest, checked
from flawline.artefact.shelf import Shelf
from flawline.scoring.knn import BankIndex
from flawline.serving import triton
from flawline.serving.checks import check_question


class BankModel:
    """EMBEDDING FP32 [rows, columns, D], ARTEFACT_KEY INT32 [2] -> DISTANCE, CROWDING FP32 [rows, columns]."""

    def initialize(self, args: dict[str, str]) -> None:
        """Prepare an empty shelf beside the server's models."""
        file, threads = triton.parameter(args, "BANK_FILE", ""), triton.threads(args)

        def load(folder: Path, manifest: Manifest) -> BankIndex:
            return BankIndex.load(checked(folder, manifest, file), threads=threads)

        most = triton.count(args, "MAX_BANKS", 128, 1_000_000)
        self.shelf = Shelf(triton.repository(args), load, most=most)

    def execute(self, requests: list[triton.Request]) -> list[triton.Response]:
        """One FAISS search per bank for all requests that ask it."""
        responses: list[triton.Response] = [None] * len(requests)
        asking: dict[tuple[int, ...], tuple[BankIndex, list[int]]] = {}
        for i, request in enumerate(requests):
            try:
                asked = triton.key(request)
                index = self.shelf.get(asked)
                check_question(triton.array(request, "EMBEDDING"), index.dimensions)
            except Exception as error:  # of this request alone
                responses[i] = triton.failure(error)
            else:
                asking.setdefault(asked, (index, []))[1].append(i)
        for index, members in asking.values():
            found = triton.together(partial(self._search, index), [requests[i] for i in members])
            for i, response in zip(members, found, strict=True):
                responses[i] = response
        return responses

    @staticmethod
    def _search(index: BankIndex, requests: Sequence[triton.Request]) -> list[triton.Response]:
        """Ask one bank for all patches of some requests at once."""
        embeddings = [triton.array(request, "EMBEDDING") for request in requests]
        found = index.search(np.concatenate([each.reshape(-1, index.dimensions) for each in embeddings]))
        counts = [int(np.prod(each.shape[:-1])) for each in embeddings]
        parts = zip(
            embeddings,
            triton.split(found.distance, counts),
            triton.split(found.crowding, counts),
            strict=True,
        )
        return [
            triton.answer(
                DISTANCE=distance.reshape(each.shape[:-1]), CROWDING=crowding.reshape(each.shape[:-1])
            )
            for each, distance, crowding in parts
        ]
