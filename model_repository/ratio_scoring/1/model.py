"""Shared stage: ExDD's ratio. Asks both memory banks concurrently (BLS), one call each per line in the batch."""

import asyncio
from collections import defaultdict

import numpy as np
import triton_python_backend_utils as pb_utils

from flawline.artefact.rules import Rules
from flawline.artefact.shelf import Shelf
from flawline.errors import FlawlineError
from flawline.scoring.ratio import Neighbours, RatioSettings, find_ratio
from flawline.serving import triton

STAGE = "ratio_scoring"
LINES = 1024
"""Lines whose constants are kept; they are a few kilobytes each, and S x S bytes more with regions to ignore."""
PATCHES = 65_536
"""Patches in one question to a bank at most: with the built-in teacher 50 MB of features."""


class BankError(Exception):
    """What a memory bank answered instead of distances."""


async def ask(bank, embedding, key):
    """Ask one bank for FP32 [B, rows, columns, D]; returns one Neighbours per picture.

    Large grids are asked about some rows at a time: what travels is copied into every question.
    """
    most = max(1, PATCHES // (len(embedding) * embedding.shape[2]))
    bands = [
        await ask_band(bank, np.ascontiguousarray(embedding[:, start : start + most]), key)
        for start in range(0, embedding.shape[1], most)
    ]
    distance, crowding = (np.concatenate(each, axis=1) for each in zip(*bands, strict=True))
    return [Neighbours(*pair) for pair in zip(distance, crowding, strict=True)]


async def ask_band(bank, embedding, key):
    """Ask one bank for FP32 [B, rows, columns, D]; returns distance and crowding, FP32 [B, rows, columns] each."""
    response = await pb_utils.InferenceRequest(
        model_name=bank,
        requested_output_names=["DISTANCE", "CROWDING"],
        inputs=[
            pb_utils.Tensor("EMBEDDING", embedding),
            pb_utils.Tensor("ARTEFACT_KEY", np.tile(np.array(key, dtype=np.int32), (len(embedding), 1))),
        ],
    ).async_exec()
    if response.has_error():
        raise BankError(response.error().message())
    names = ("DISTANCE", "CROWDING")
    return tuple(pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in names)


async def ask_both(embedding, key, has_positive):
    """The answers of both banks; the positive one's are None for lines without it."""
    negative = ask("memory_bank_negative", embedding, key)
    if not has_positive:
        return await negative, [None] * len(embedding)
    return await asyncio.gather(negative, ask("memory_bank_positive", embedding, key))


def load(folder, manifest):
    """Rules of a line, and the constants of its ratio scoring."""
    rules = Rules.load(folder, manifest)
    return rules, RatioSettings.model_validate(rules.part_of(STAGE, manifest).options)


class TritonPythonModel:
    """EMBEDDING, ARTEFACT_KEY, GEOMETRY -> RATIO_MAP FP32 [rows, columns], and RATIO_SCORE FP32 [1] if asked."""

    def initialize(self, args):
        self.shelf = Shelf(triton.repository(args), load, most=LINES)

    async def execute(self, requests):
        lines = defaultdict(list)
        for i, request in enumerate(requests):
            # Only requests of one line and one shape can be asked about together.
            lines[(triton.key(request), triton.array(request, "EMBEDDING").shape[1:])].append(i)
        responses = [None] * len(requests)
        await asyncio.gather(
            *(self.score_line(key, rows, requests, responses) for (key, _), rows in lines.items())
        )
        return responses

    async def score_line(self, key, rows, requests, responses):
        try:
            rules, settings = self.shelf.get(key)
            embeddings = [triton.array(requests[i], "EMBEDDING") for i in rows]
            answers = await ask_both(np.concatenate(embeddings), key, settings.has_positive)
        except (BankError, FlawlineError) as error:
            for i in rows:
                responses[i] = triton.fail(str(error))
            return
        pairs = iter(list(zip(*answers, strict=True)))
        for i in rows:
            mine = [next(pairs) for _ in triton.array(requests[i], "GEOMETRY")]
            responses[i] = self.score_pictures(requests[i], mine, rules, settings)

    def score_pictures(self, request, answers, rules, settings):
        try:
            geometries = triton.geometries(request, rules)
            found = [
                find_ratio(*answer, geometry, settings)
                for answer, geometry in zip(answers, geometries, strict=True)
            ]
        except FlawlineError as error:
            return triton.refuse(str(error))
        outputs = {"RATIO_MAP": np.stack([finding.map for finding in found])}
        if "RATIO_SCORE" in request.requested_output_names():
            outputs["RATIO_SCORE"] = np.array([[finding.score] for finding in found], dtype=np.float32)
        return triton.answer(**outputs)
