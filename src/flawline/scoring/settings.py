"""What differs between lines in scoring: the constants that every stage after the graph needs."""

from dataclasses import astuple, dataclass, fields
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from flawline.scoring.ratio import ImageScore


class Fusion(IntEnum):
    """How discrepancy a and ratio b, each in units of its own level on normal pictures, become one figure.

    w is the weight of the discrepancy. MEAN: w a + (1-w) b. PRODUCT: a^w b^(1-w). MAX: the larger of both, whatever
    w says. The number travels in the line's settings.
    """

    MEAN = 0
    PRODUCT = 1
    MAX = 2


@dataclass(frozen=True)
class LineSettings:
    """Constants of a line, carried by tensor SETTINGS out of its own graph.

    Attributes:
        size: side of the model square in pixels.
        false_alarm: share of normal pictures that may be called defective, in (0, 1).
        pixel_threshold: smoothed, fused score from which a pixel is called defective, > 0.
        sigma, discrepancy_sigma: standard deviation in pixels of the Gaussian that smooths the map of the ratio and
            that of the discrepancy.
        min_area: regions of fewer pixels of the model square get no box.
        image_score: an ImageScore, of the ratio.
        has_positive: whether the line has a positive bank.
        positive_weight: exponent of the distance from the positive bank; see stages.ratio.ratio_map.
        eight_bit_map: round each ratio map to 8 bits of its own range before smoothing, as ExDD's authors do.
        has_ratio: whether the line has memory banks.
        has_discrepancy: whether it has a student.
        top_share: share of the picture's pixels, the strongest of the smoothed discrepancy, whose mean is the
            picture's; 0 takes the largest.
        fusion: a Fusion, for lines that have both.
        fusion_weight, map_weight: w there for scores and for maps, 0 to 1.
        discrepancy_level, ratio_level: typical score of a normal picture for each part, > 0; the picture's score
            is fused in units of them.
        discrepancy_peak, ratio_peak: typical largest smoothed pixel of a normal picture, > 0; likewise for maps.

    """

    size: int
    false_alarm: float
    pixel_threshold: float
    sigma: float
    min_area: int
    image_score: ImageScore
    has_positive: bool
    positive_weight: float
    eight_bit_map: bool
    has_ratio: bool = True
    has_discrepancy: bool = False
    top_share: float = 0.0
    fusion: Fusion = Fusion.MEAN
    fusion_weight: float = 0.5
    discrepancy_level: float = 1.0
    ratio_level: float = 1.0
    discrepancy_peak: float = 1.0
    ratio_peak: float = 1.0
    discrepancy_sigma: float = 4.0
    map_weight: float = 0.5

    def to_array(self) -> NDArray[np.float32]:
        """FP32 [SETTINGS], in the order of the attributes."""
        return np.array(astuple(self), dtype=np.float32)

    @property
    def fusion_statement(self) -> str | None:
        """How a line of both parts joins them, in words with its levels; None for other lines."""
        if not (self.has_ratio and self.has_discrepancy):
            return None
        share = (
            f" with weights {self.fusion_weight:g} (scores) and {self.map_weight:g} (maps) of the discrepancy"
        )
        share = "" if self.fusion is Fusion.MAX else share
        return (
            f"{self.fusion.name.lower()}{share}; scores in units of {self.discrepancy_level:.3g} (discrepancy) and "
            f"{self.ratio_level:.3g} (ratio), maps of {self.discrepancy_peak:.3g} and {self.ratio_peak:.3g}"
        )

    @classmethod
    def from_array(cls, values: NDArray[np.float32]) -> "LineSettings":
        """Undo `to_array`, up to FP32."""
        kinds = {field.name: field.type for field in fields(cls)}
        return cls(**{name: kind(value) for (name, kind), value in zip(kinds.items(), values, strict=True)})  # type: ignore[operator]


SETTINGS = len(fields(LineSettings))
"""Length of tensor SETTINGS."""
