"""Settings that `sacd` and `ddpm_ast` share."""

from typing import Literal

from pydantic import Field

from flawline.detectors.part import PartConfig
from flawline.detectors.students.train import TrainingConfig
from flawline.scoring.settings import MOST_SIGMA, MOST_WEIGHT
from flawline.synthesis import Synthesis


class StudentConfig(PartConfig):
    """Settings of a detector that trains a student.

    Attributes:
        layers: see PartConfig; null takes the stages at one and two quarters of the depth.
        weight: see PartConfig; memory banks have three quarters.
        distance: measure between teacher and student, `cosine` (papers) or `relative`; see Distance in blocks.py.
        synthesis: method that makes the defects to learn from; null takes that of the recipe.
        top_share: share of the pixels, the strongest of the smoothed map, whose mean is the picture's score.
        sigma: standard deviation in pixels of the Gaussian that smooths the discrepancy.
        training: how the student is trained.

    """

    weight: float = Field(0.25, ge=0, le=MOST_WEIGHT)
    distance: Literal["cosine", "relative"] = "relative"
    synthesis: Synthesis | None = None
    top_share: float = Field(0.0, ge=0, le=1)
    sigma: float = Field(4.0, ge=0, le=MOST_SIGMA)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
