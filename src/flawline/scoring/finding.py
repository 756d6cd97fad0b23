"""What one part of a line found on one picture: the common tongue of all detectors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Role = Literal["map", "score", "boxes"]
ROLES: tuple[Role, ...] = ("map", "score", "boxes")


@dataclass(frozen=True)
class Finding:
    """What one part found on one picture. None stands for what a part does not give.

    Attributes:
        map: FP32 [rows, columns], at least 0, over an even grid on the model square; more is more anomalous.
        score: score of the picture, at least 0. Where it is None, it follows from the map or from the boxes.
        boxes: FP32 [K, 6]: x1, y1, x2, y2 in pixels of the model square, score, class. A negative score marks an
            unused row.

    """

    map: Floats | None = None
    score: float | None = None
    boxes: Floats | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], gives: Mapping[Role, str]) -> "Finding":
        """Take a finding from named arrays of one picture.

        Args:
            arrays: arrays by tensor name; a score has one element.
            gives: the tensor that holds each role.

        """
        found = {role: arrays[name] for role, name in gives.items()}
        score = found.get("score")
        return cls(
            map=cast(Floats | None, found.get("map")),
            score=None if score is None else float(np.asarray(score).reshape(())),
            boxes=cast(Floats | None, found.get("boxes")),
        )

    @property
    def roles(self) -> tuple[Role, ...]:
        """What it gives, in the order of ROLES."""
        return tuple(role for role in ROLES if getattr(self, role) is not None)
