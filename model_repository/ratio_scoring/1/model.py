"""Shared stage: ExDD's ratio. Asks both memory banks concurrently (BLS), one call each per line in the batch."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from functools import partial

import numpy as np
import triton_python_backend_utils as pb_utils

from flawline.artefact.rules import Rules
from flawline.artefact.shelf import Shelf
from flawline.errors import ServerError
from flawline.scoring.ratio import Neighbours, RatioSettings, find_ratio
from flawline.serving import triton
from flawline.serving.checks import check_features

STAGE = "ratio_scoring"
LINES = 1024
"""Lines whose constants are kept; they are a few kilobytes each, and S x S bytes more with regions to ignore."""
PATCHES = 65_536
"""Patches in one question to a bank at most: with the built-in teacher 50 MB of features."""


class BankError(ServerError):
    """What a memory bank answered instead of distances."""


@dataclass
class Question:
    """One request, read and found good; its place among the responses, and what its line is."""

    place: int
    request: object
    key: tuple
    line: object
    geometries: list
    embedding: np.ndarray


async def ask(bank, embedding, key, names):
    """Ask one bank for FP32 [B, rows, columns, D]; returns one Neighbours per picture.

    Large grids are asked about some rows at a time: what travels is copied into every question.
    """
    most = max(1, PATCHES // (len(embedding) * embedding.shape[2]))
    bands = [
        await ask_band(bank, np.ascontiguousarray(embedding[:, start : start + most]), key, names)
        for start in range(0, embedding.shape[1], most)
    ]
    answers = (np.concatenate(each, axis=1) for each in zip(*bands, strict=True))
    return [Neighbours(*each) for each in zip(*answers, strict=True)]


async def ask_band(bank, embedding, key, names):
    """Ask one bank for FP32 [B, rows, columns, D]; returns FP32 [B, rows, columns] for each name."""
    response = await pb_utils.InferenceRequest(
        model_name=bank,
        requested_output_names=names,
        inputs=[
            pb_utils.Tensor("EMBEDDING", embedding),
            pb_utils.Tensor("ARTEFACT_KEY", np.tile(np.array(key, dtype=np.int32), (len(embedding), 1))),
        ],
    ).async_exec()
    if response.has_error():
        raise BankError(response.error().message())
    return tuple(pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in names)


async def ask_both(embedding, key, settings):
    """The answers of both banks; the positive one's are None for lines without it."""
    names = ["DISTANCE", "CROWDING"] if settings.crowded else ["DISTANCE"]
    negative = ask("memory_bank_negative", embedding, key, names)
    if not settings.has_positive:
        return await negative, [None] * len(embedding)
    return await asyncio.gather(negative, ask("memory_bank_positive", embedding, key, names))


@dataclass(frozen=True)
class ScoredLine:
    """What this stage keeps of a line: its rules, the constants of its ratio, and what its graph gives a patch."""

    rules: Rules
    settings: RatioSettings
    dims: tuple

    @classmethod
    def load(cls, folder, manifest):
        rules = Rules.load(folder, manifest)
        settings = RatioSettings.model_validate(rules.part_of(STAGE, manifest).options)
        (dims,) = (part.outputs[0].dims for part in manifest.parts if part.stage == STAGE)
        return cls(rules, settings, dims)


class TritonPythonModel:
    """EMBEDDING, ARTEFACT_KEY, GEOMETRY -> RATIO_MAP FP32 [rows, columns], and RATIO_SCORE FP32 [1] if asked."""

    def initialize(self, args):
        self.shelf = Shelf(triton.repository(args), ScoredLine.load, most=LINES)

    async def execute(self, requests):
        responses = [None] * len(requests)
        lines = defaultdict(list)
        for place, request in enumerate(requests):
            try:
                question = self.read(place, request)
            except Exception as error:  # of this request alone
                responses[place] = triton.failure(error)
            else:
                # Only requests of one line and one shape can be asked about together.
                lines[question.key, question.embedding.shape[1:]].append(question)
        await asyncio.gather(*(self.score_line(asked, responses) for asked in lines.values()))
        return responses

    def read(self, place, request):
        """Read a request. Raises FlawlineError for one that cannot be scored, before anything else is asked."""
        key = triton.key(request)
        line = self.shelf.get(key)
        geometries = triton.geometries(request, line.rules)
        embedding = triton.array(request, "EMBEDDING")
        check_features(embedding, line.dims, geometries)
        return Question(place, request, key, line, geometries, embedding)

    async def score_line(self, asked, responses):
        """Answer requests of one line: together, or each alone where the banks do not answer that."""
        first = asked[0]
        try:
            embeddings = triton.joined([question.embedding for question in asked])
            answers = await ask_both(embeddings, first.key, first.line.settings)
        except Exception as error:  # the one at fault, if any, is found alone
            if len(asked) == 1:
                responses[first.place] = triton.failure(error)
            else:
                await asyncio.gather(*(self.score_line([question], responses) for question in asked))
            return
        pairs = iter(list(zip(*answers, strict=True)))
        for question in asked:
            mine = [next(pairs) for _ in question.geometries]
            responses[question.place] = triton.answered(partial(score, question, mine), question.request)


def score(question, answers, request):
    """The ratio of each picture of a request, from what the banks answered."""
    found = [
        find_ratio(*answer, geometry, question.line.settings)
        for answer, geometry in zip(answers, question.geometries, strict=True)
    ]
    outputs = {"RATIO_MAP": np.stack([finding.map for finding in found])}
    if "RATIO_SCORE" in request.requested_output_names():
        outputs["RATIO_SCORE"] = np.array([[finding.score] for finding in found], dtype=np.float32)
    return triton.answer(**outputs)
