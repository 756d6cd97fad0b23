"""What the server says of one picture, and what can go wrong when it is asked."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Verdict(IntEnum):
    """The three answers of a line, as its tensor VERDICT brings them."""

    PASS = 0
    LOOK_AGAIN = 1
    REJECT = 2


@dataclass(frozen=True)
class Decision:
    """The server's answer for one picture to those who do not ask where.

    Attributes:
        line: line that judged the picture.
        source: name of the picture: its path, or `picture` and its number.
        score: image anomaly score on the detector's raw scale; higher is more anomalous.
        p_value: share of normal pictures expected to score at least this high, 0 to 1.
        verdict: REJECT where `p_value` is within the line's false-alarm budget, LOOK_AGAIN where it is within the
            second, larger one, else PASS.
        is_defect: whether the verdict is REJECT.
        latency_ms: time from the call to its answer as the caller saw it, repeats included, in milliseconds.

    """

    line: str
    source: str
    score: float
    p_value: float
    verdict: Verdict
    is_defect: bool
    latency_ms: float

    def to_json(self) -> dict[str, Any]:
        """Everything but the map and the mask, as plain values that `json.dumps` takes."""
        return {
            "line": self.line,
            "source": self.source,
            "score": self.score,
            "p_value": self.p_value,
            "verdict": self.verdict.name.lower(),
            "is_defect": self.is_defect,
            "latency_ms": round(self.latency_ms, 3),
        }


@dataclass(frozen=True, eq=False)
class Inspection(Decision):
    """The server's whole answer for one picture. See also Decision.

    Attributes:
        anomaly_map: FP32 [S, S] at model resolution, scaled so that 1.0 is the line's pixel threshold. The
            picture lies in the top left (see `inner_size`), the rest is padding. Of a line with windows FP32
            [h, w]: the picture alone, reduced by maxima where it is large.
        mask: UINT8 of the same shape, 1 where the map reaches 1.0; around its strongest place where it does so
            nowhere and the picture is not passed.
        boxes: FP32 [n, 6], one row per defect: x1, y1, x2, y2 in pixels of the upright picture, score, class.
        classes: names of the classes of the boxes, in the order of their numbers; empty where the line names none.

    """

    anomaly_map: NDArray[np.float32] = field(repr=False)
    mask: NDArray[np.uint8] = field(repr=False)
    boxes: NDArray[np.float32] = field(repr=False)
    classes: tuple[str, ...] = ()

    def name_of(self, label: float) -> str | None:
        """Name of the class of a number; None where the line names none."""
        return self.classes[int(label)] if 0 <= int(label) < len(self.classes) else None

    def to_json(self) -> dict[str, Any]:
        """See Decision."""
        boxes = [
            {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "score": score, "class": int(label)}
            | ({"name": name} if (name := self.name_of(label)) is not None else {})
            for x1, y1, x2, y2, score, label in self.boxes.tolist()
        ]
        return {**super().to_json(), "boxes": boxes}

    def heat_map(self, width: int, height: int) -> NDArray[np.float32]:
        """FP32 [height, width]: the anomaly map on the pixels of the upright picture, interpolated."""
        return self._on_picture(self.anomaly_map, width, height, Image.Resampling.BILINEAR)

    def pixel_mask(self, width: int, height: int) -> NDArray[np.bool_]:
        """BOOL [height, width]: the mask on the pixels of the upright picture, by nearest neighbour."""
        return self._on_picture(self.mask, width, height, Image.Resampling.NEAREST) > 0

    def _on_picture(
        self, square: NDArray[Any], width: int, height: int, resampling: Image.Resampling
    ) -> NDArray[Any]:
        inner_width, inner_height = square.shape[1], square.shape[0]
        if inner_width == inner_height:  # a model square; other maps show the picture alone
            inner_width, inner_height = inner_size(width, height, square.shape[0])
        inner = Image.fromarray(square[:inner_height, :inner_width])  # cut first: resize looks beyond a `box`
        return np.asarray(inner.resize((width, height), resampling))


def inner_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height that a picture takes inside the model square of side `size`, all in pixels.

    The picture's longer side fills the square and it lies in the top left; no side is below one pixel.
    """
    scale = size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


class InspectionError(Exception):
    """A picture was not inspected, or a question to the server not answered.

    Attributes:
        message: one sentence that names picture, line and server, and the cure.
        code: gRPC status name, such as `INVALID_ARGUMENT`.
        source: name of the picture, empty when the question was about none.

    """

    def __init__(self, message: str, code: str, source: str = "") -> None:
        super().__init__(message, code, source)
        self.message = message
        self.code = code
        self.source = source

    def __str__(self) -> str:
        return self.message

    def to_json(self) -> dict[str, Any]:
        """Source, code and message, as plain values that `json.dumps` takes."""
        return {"source": self.source, "error": {"code": self.code, "message": self.message}}


class PictureRejected(InspectionError):  # noqa: N818  it names what happened, as the status does
    """The picture cannot be read, decoded or accepted (`INVALID_ARGUMENT`). Asking again will not help."""


class LineNotFound(InspectionError):  # noqa: N818
    """The server is there but does not serve the line (`NOT_FOUND`)."""


class ServerUnavailable(InspectionError):  # noqa: N818
    """No answer: the server is down, starting, overloaded or too slow (`UNAVAILABLE`, `DEADLINE_EXCEEDED`)."""
