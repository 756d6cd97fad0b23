"""The constants of a line's scoring: one JSON file of its artefact, the same for training and serving."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flawline.scoring.finding import Role
from flawline.scoring.ignored import Ignored
from flawline.scoring.picture import EIGHT, MOST_BITS, SIZES, Geometry
from flawline.scoring.windows import WindowSettings

PEAK_SHARE = 0.5
"""Share of the way from a map's median to its maximum at which the region around its strongest place ends."""


MOST_SIGMA = 100.0
"""Largest standard deviation of a Gaussian that smooths a map, in pixels: it goes over a square of 256 at once."""
MOST_WEIGHT = 1000.0
"""Largest weight of a part; weights count relative to each other."""


class Fusion(StrEnum):
    """How several parts become one figure.

    Each part's figure x_i is first divided by its own level on normal pictures. The weights w_i sum to 1.
    MEAN: sum of w_i x_i. PRODUCT: product of x_i^w_i. MAX: the largest x_i, whatever the weights say.
    """

    MEAN = "mean"
    PRODUCT = "product"
    MAX = "max"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PartSettings(_Frozen):
    """Constants of one part of a line.

    Attributes:
        name: name of the part, such as `exdd`.
        gives: what its findings hold.
        sigma: standard deviation in pixels of the Gaussian that smooths its map; 0 leaves the map as it is.
        eight_bit_map: whether each map is rounded to 8 bits of its range before smoothing, as ExDD's authors do.
        top_share: share of the picture's pixels, the strongest of the smoothed map, whose mean is the score where
            the part gives none; 0 takes the largest pixel. With windows it is a share of 256 x 256 pixels.
        weight: weight of the part where several are fused, relative to the others, at least 0.
        level: typical score of a normal picture, above 0; scores are fused in units of it.
        peak: typical largest smoothed pixel, or strongest box, of a normal picture, above 0; maps and boxes are
            fused in units of it.
        options: settings of the part's own stage, as JSON values.

    """

    name: str
    gives: tuple[Role, ...]
    sigma: float = Field(4.0, ge=0, le=MOST_SIGMA)
    eight_bit_map: bool = False
    top_share: float = Field(0.0, ge=0, le=1)
    weight: float = Field(1.0, ge=0, le=MOST_WEIGHT)
    level: float = Field(1.0, gt=0)
    peak: float = Field(1.0, gt=0)
    options: dict[str, Any] = {}


class LineSettings(_Frozen):
    """Constants of a line.

    Attributes:
        size: side of the model square, or of each window, in pixels.
        false_alarm: share of normal pictures that may be called defective, in (0, 1).
        pixel_threshold: fused, smoothed score from which a pixel, or a box, is called defective, above 0.
        min_area: fewest pixels of the model square of a region that gets a box.
        look_again: share of normal pictures that may be called defective or be looked at again, in (0, 1); None
            looks at none again.
        peak_share: how a picture that is not passed shows where although no pixel of its map reaches the threshold;
            see flawline.scoring.verdict.peak_region. None shows nothing then, as lines of older builds do.
        worth: how many independent pictures each calibration score counts for, in (0, 1]; see
            flawline.scoring.calibration.worth_of.
        fusion: rule that joins several parts.
        parts: constants of each part, in the order of the line's findings.
        windows: how pictures are cut into windows; None brings each whole into one square.
        classes: names of the classes of boxes, in the order of their numbers; none where the line names none. The
            regions of a map beside boxes of named classes are of the last.
        bits: bits that the values of the line's pictures fill; above 8 it takes files of more than eight bits a
            channel, and raw pixels in UINT16.

    """

    size: int = Field(ge=16, le=SIZES[-1])
    false_alarm: float = Field(gt=0, lt=1)
    pixel_threshold: float = Field(gt=0)
    min_area: int = Field(ge=1, le=1 << 20)
    look_again: float | None = Field(None, gt=0, lt=1)
    peak_share: float | None = Field(None, gt=0, le=1)
    worth: float = Field(1.0, gt=0, le=1)
    fusion: Fusion = Fusion.PRODUCT
    parts: tuple[PartSettings, ...] = Field(min_length=1)
    windows: WindowSettings | None = None
    classes: tuple[str, ...] = ()
    bits: int = Field(EIGHT, ge=EIGHT, le=MOST_BITS)

    def place(self, width: int, height: int, ignored: Ignored | None = None) -> Geometry:
        """Say where a picture of `width` x `height` pixels lies in the model's plane.

        Args:
            width: width of the picture in pixels.
            height: its height.
            ignored: regions of the line's pictures that are not judged; None with windows.

        Raises:
            PictureError: a side below 1, another shape than that of `ignored`, or too many pixels for the line's
                windows.

        """
        if self.windows is None:
            return Geometry.fit(width, height, self.size, ignored)
        return self.windows.place(width, height, self.size)

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each part, as shares of their sum."""
        total = sum(part.weight for part in self.parts)
        return tuple(part.weight / total for part in self.parts)

    @property
    def fusion_statement(self) -> str | None:
        """How a line of several parts joins them, in words; None for a part alone."""
        if len(self.parts) == 1:
            return None
        weighed = self.fusion is not Fusion.MAX
        parts = (
            part.name
            + (f" weighs {share:g}" if weighed else "")
            + f", in units of {part.level:.3g} (score) and {part.peak:.3g} (map)"
            for part, share in zip(self.parts, self.weights, strict=True)
        )
        return f"{self.fusion.value} of the parts: {'; '.join(parts)}"
