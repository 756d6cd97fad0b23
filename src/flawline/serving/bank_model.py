"""The Triton model behind both memory-bank stages: one process holds the banks of all lines."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flawline.artefact.manifest import Manifest, checked
from flawline.artefact.shelf import Shelf
from flawline.scoring.knn import BankIndex
from flawline.serving import triton
from flawline.serving.checks import check_question


class BankModel:
    """EMBEDDING FP32 [rows, columns, D], ARTEFACT_KEY INT32 [2] -> DISTANCE, CROWDING FP32 [rows, columns].

    CROWDING takes about as long as the search, and is made where it is asked for.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Prepare an empty shelf beside the server's models."""
        file, threads = triton.parameter(args, "BANK_FILE", ""), triton.threads(args)

        def load(folder: Path, manifest: Manifest) -> BankIndex:
            return BankIndex.load(checked(folder, manifest, file), threads=threads)

        most = triton.count(args, "MAX_BANKS", 128, 1_000_000)
        self.shelf = Shelf(triton.repository(args), load, most=most)

    def execute(self, requests: list[triton.Request]) -> list[triton.Response]:
        """One search per bank for all requests that ask it."""
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
        """Ask one bank for all patches of some requests at once, and for crowding where one of them does."""
        embeddings = [triton.array(request, "EMBEDDING") for request in requests]
        crowded = any("CROWDING" in request.requested_output_names() for request in requests)
        rows = [each.reshape(-1, index.dimensions) for each in embeddings]
        found = index.search(triton.joined(rows), crowded=crowded)
        answers = {"DISTANCE": found.distance}
        if found.crowding is not None:
            answers["CROWDING"] = found.crowding
        counts = [len(each) for each in rows]
        parts = zip(*(triton.split(values, counts) for values in answers.values()), strict=True)
        return [
            triton.answer(
                **{
                    name: values.reshape(each.shape[:-1])
                    for name, values in zip(answers, part, strict=True)
                    if name in request.requested_output_names()
                }
            )
            for request, each, part in zip(requests, embeddings, parts, strict=True)
        ]
