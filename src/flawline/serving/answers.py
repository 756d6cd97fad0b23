"""Verdicts as the output tensors of a line: those that a client asks for, and no others."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from flawline.scoring.verdict import Ruling, Verdict
from flawline.serving import triton

DECISION_ONLY = "decision_only"
"""Parameter of a request, as flawline_client.wire has it; stages do not import that, nor gRPC with it."""
_RULED: Mapping[str, Callable[[Sequence[Ruling]], triton.Array]] = {
    "SCORE": lambda rulings: np.array([[each.score] for each in rulings], dtype=np.float32),
    "P_VALUE": lambda rulings: np.array([[each.p_value] for each in rulings], dtype=np.float32),
    "VERDICT": lambda rulings: np.array([[each.decision] for each in rulings], dtype=np.int32),
    "IS_DEFECT": lambda rulings: np.array([[each.is_defect] for each in rulings], dtype=np.bool_),
}
_SHOWN: Mapping[str, Callable[[Verdict], triton.Array]] = {
    "ANOMALY_MAP": lambda verdict: verdict.anomaly_map,
    "MASK": lambda verdict: verdict.mask,
    "BOXES": lambda verdict: verdict.boxes,
}


def wanted_by(request: triton.Request) -> set[str]:
    """Names of the outputs to make: those that are asked for, without those that say where under DECISION_ONLY.

    A stage of an ensemble is asked for all that the ensemble has, whatever its client asks; parameters reach it.
    """
    names = set(request.requested_output_names())
    return names - _SHOWN.keys() if json.loads(request.parameters()).get(DECISION_ONLY) is True else names


def shows(wanted: Collection[str]) -> bool:
    """Whether any of these outputs says where; otherwise a Ruling is enough for all of them."""
    return not _SHOWN.keys().isdisjoint(wanted)


def respond(rulings: Sequence[Ruling], wanted: Collection[str]) -> triton.Response:
    """One response with the outputs `wanted` for the pictures of one request: Verdicts where `shows(wanted)`."""
    outputs = {name: make(rulings) for name, make in _RULED.items() if name in wanted}
    verdicts = [each for each in rulings if isinstance(each, Verdict)]
    outputs |= {
        name: _stacked([make(v) for v in verdicts]) for name, make in _SHOWN.items() if name in wanted
    }
    return triton.answer(**outputs)


def _stacked(arrays: Sequence[triton.Array]) -> triton.Array:
    """Put a batch in front, without a copy where it is of one."""
    return np.stack(arrays) if len(arrays) > 1 else arrays[0][np.newaxis]
