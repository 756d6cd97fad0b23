"""Shared stage: ExDD's ratio. Asks both memory banks concurrently (BLS), one call each per line in the batch."""

import asyncio
from collections import defaultdict

import numpy as np
import triton_python_backend_utils as pb_utils

from flawline.artefact.served import score_patches
from flawline.scoring.knn import Neighbours
from flawline.scoring.picture import Geometry
from flawline.scoring.settings import LineSettings
from flawline.serving import triton


class BankError(Exception):
    """What a memory bank answered instead of distances."""


async def ask(bank, embedding, key):
    """Ask one bank for FP32 [B, P, D]; returns one Neighbours per picture."""
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
    distance, crowding = (pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in names)
    return [Neighbours(*pair) for pair in zip(distance, crowding, strict=True)]


async def ask_both(embedding, key, has_positive):
    """The answers of both banks; the positive one's are None for lines without it."""
    negative = ask("memory_bank_negative", embedding, key)
    if not has_positive:
        return await negative, [None] * len(embedding)
    return await asyncio.gather(negative, ask("memory_bank_positive", embedding, key))


class TritonPythonModel:
    """EMBEDDING, ARTEFACT_KEY, SETTINGS, GEOMETRY -> RATIO_MAP FP32 [g, g] and RATIO_SCORE FP32 [1]."""

    async def execute(self, requests):
        embeddings = [triton.array(request, "EMBEDDING") for request in requests]
        lines = defaultdict(list)
        for i, request in enumerate(requests):
            lines[tuple(triton.array(request, "ARTEFACT_KEY")[0].tolist())].append(i)
        responses = [None] * len(requests)
        await asyncio.gather(
            *(self.score_line(key, rows, requests, embeddings, responses) for key, rows in lines.items())
        )
        return responses

    async def score_line(self, key, rows, requests, embeddings, responses):
        settings = LineSettings.from_array(triton.array(requests[rows[0]], "SETTINGS")[0])
        together = np.concatenate([embeddings[i] for i in rows])
        try:
            answers = await ask_both(together, key, settings.has_positive)
        except BankError as error:
            for i in rows:
                responses[i] = triton.fail(str(error))
            return
        pairs = iter(zip(*answers, strict=True))
        for i in rows:
            scored = [
                score_patches(*next(pairs), Geometry.fit(int(width), int(height), settings.size), settings)
                for width, height in triton.array(requests[i], "GEOMETRY")
            ]
            responses[i] = triton.answer(
                RATIO_MAP=np.stack([patch_map for patch_map, _ in scored]),
                RATIO_SCORE=np.array([[score] for _, score in scored], dtype=np.float32),
            )
