"""Verdicts as the output tensors of a line."""

from collections.abc import Sequence

import numpy as np

from flawline.scoring.verdict import Verdict
from flawline.serving import triton


def respond(verdicts: Sequence[Verdict]) -> triton.Response:
    """One response for the pictures of one request."""
    return triton.answer(
        SCORE=np.array([[v.score] for v in verdicts], dtype=np.float32),
        P_VALUE=np.array([[v.p_value] for v in verdicts], dtype=np.float32),
        VERDICT=np.array([[v.decision] for v in verdicts], dtype=np.int32),
        IS_DEFECT=np.array([[v.is_defect] for v in verdicts], dtype=np.bool_),
        ANOMALY_MAP=np.stack([v.anomaly_map for v in verdicts]),
        MASK=np.stack([v.mask for v in verdicts]),
        BOXES=np.stack([v.boxes for v in verdicts]),
    )
