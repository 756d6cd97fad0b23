"""Settings of `sacd`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from flawline.detectors.students.training import TrainingConfig
from flawline.synthesis.spec import Synthesis


@dataclass(frozen=True)
class SACDConfig:
    """Every number of the method; the paper's where it gives one.

    Attributes:
        depth: L, how many times FeaCali halves the channels; 0 leaves it out (paper: 2).
        alpha: weight of the intra-model contrast (paper: 0.2).
        margin: m, the likeness from which calibrated and uncalibrated maps of an anomaly are pushed apart (RD++:
            0.5).
        blocks: residual blocks per level of the decoder.
        distance: between teacher and student, `cosine` (papers) or `relative`; see students.blocks.Distance.
        synthesis: what makes the anomalies to learn from (paper: fractal simplex noise); None takes the recipe's.
        top_share: see flawline.scoring.settings.LineSettings (RD4AD: the largest pixel).
        sigma: standard deviation in pixels of the Gaussian that smooths the discrepancy (paper: 4).
        training: how the student is trained.

    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    depth: int = 2
    alpha: float = 0.2
    margin: float = 0.5
    blocks: int = 1
    distance: Literal["cosine", "relative"] = "relative"
    synthesis: Synthesis | None = None
    top_share: float = 0.005
    sigma: float = 4.0
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if not 0 <= self.depth <= 4:
            msg = f"depth is {self.depth}; FeaCali halves channels 0 to 4 times"
            raise ValueError(msg)
        if self.alpha < 0 or not -1 <= self.margin <= 1 or self.blocks < 1:
            msg = "alpha must be 0 or more, margin within -1 and 1, blocks at least 1"
            raise ValueError(msg)
