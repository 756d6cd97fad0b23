"""The Triton model behind both memory-bank stages: one process holds the banks of all lines."""

from pathlib import Path

import numpy as np

from flawline.artefact.manifest import Manifest, checked
from flawline.artefact.shelf import Shelf
from flawline.errors import ArtefactError
from flawline.scoring.knn import BankIndex
from flawline.serving import triton


class BankModel:
    """EMBEDDING FP32 [rows, columns, D], ARTEFACT_KEY INT32 [2] -> DISTANCE, CROWDING FP32 [rows, columns]."""

    def initialize(self, args: dict[str, str]) -> None:
        """Prepare an empty shelf beside the server's models."""
        file, threads = triton.parameter(args, "BANK_FILE", ""), triton.threads(args)

        def load(folder: Path, manifest: Manifest) -> BankIndex:
            return BankIndex.load(checked(folder, manifest, file), threads=threads)

        most = int(triton.parameter(args, "MAX_BANKS", "128"))
        self.shelf = Shelf(triton.repository(args), load, most=most)

    def execute(self, requests: list[triton.Request]) -> list[triton.Response]:
        """One FAISS search per bank for all requests that ask it."""
        embeddings = [triton.array(request, "EMBEDDING") for request in requests]
        keys = [triton.key(request) for request in requests]
        responses: list[triton.Response] = [None] * len(requests)
        for key in set(keys):
            members = [i for i, other in enumerate(keys) if other == key]
            try:
                index = self.shelf.get(key)
            except ArtefactError as error:
                for i in members:
                    responses[i] = triton.fail(str(error))
                continue
            fitting = [i for i in members if embeddings[i].shape[-1] == index.dimensions]
            for i in set(members) - set(fitting):
                width = embeddings[i].shape[-1]
                responses[i] = triton.refuse(f"EMBEDDING has {width} dimensions, the bank {index.dimensions}")
            if not fitting:
                continue
            counts = [int(np.prod(embeddings[i].shape[:-1])) for i in fitting]
            found = index.search(
                np.concatenate([embeddings[i].reshape(-1, index.dimensions) for i in fitting])
            )
            distances = triton.split(found.distance, counts)
            crowdings = triton.split(found.crowding, counts)
            for i, distance, crowding in zip(fitting, distances, crowdings, strict=True):
                shape = embeddings[i].shape[:-1]
                responses[i] = triton.answer(
                    DISTANCE=distance.reshape(shape), CROWDING=crowding.reshape(shape)
                )
        return responses
