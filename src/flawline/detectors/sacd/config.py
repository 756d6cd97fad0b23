"""Settings of `sacd`."""

from pydantic import Field

from flawline.detectors.students.config import StudentConfig
from flawline.scoring.settings import MOST_SIGMA


class SACDConfig(StudentConfig):
    """Every number of the method; the paper's where it gives one.

    Attributes:
        depth: L, how many times FeaCali halves the channels; 0 leaves it out (paper: 2).
        alpha: weight of the intra-model contrast (paper: 0.2).
        margin: m, the likeness from which calibrated and uncalibrated maps of an anomaly are pushed apart (RD++:
            0.5).
        blocks: number of residual blocks per level of the decoder.
        synthesis: see StudentConfig (paper: fractal simplex noise).
        top_share: see StudentConfig (RD4AD: 0, the largest pixel).
        sigma: see StudentConfig (paper: 4).

    """

    depth: int = Field(2, ge=0, le=4)
    alpha: float = Field(0.2, ge=0, le=1000)
    margin: float = Field(0.5, ge=-1, le=1)
    blocks: int = Field(1, ge=1, le=32)
    top_share: float = Field(0.005, ge=0, le=1)
    sigma: float = Field(4.0, ge=0, le=MOST_SIGMA)
