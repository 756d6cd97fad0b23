"""Settings of `ddpm_ast`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from flawline.detectors.students.training import TrainingConfig
from flawline.synthesis.spec import Synthesis


@dataclass(frozen=True)
class DDPMASTConfig:
    """Every choice of the network and its loss.

    Attributes:
        symmetric: give the student the teacher's own layout (for the ablation), not an encoder and a decoder.
        head: score by the segmentation head; without it by the product of the levels' cosine distances.
        far: let the head look further, along a defect (DeSTSeg's looks far too, by ASPP).
        head_weight: of the segmentation loss beside the cosine loss.
        gamma: of the focal loss (DeSTSeg: 4).
        dropout: share of the channels of the agreement that the head does without in a step (DeSTSeg: none).
        width: of the first stage of the student's encoder; each further stage has twice as many channels.
        min_cover: share of a place that a mask covers from which the place counts as defective.
        distance: between teacher and student, `cosine` (paper) or `relative`; see students.blocks.Distance.
        synthesis: what makes the defects to learn from (paper: a diffusion model's pictures in Perlin regions);
            None takes the recipe's.
        top_share: see flawline.scoring.settings.LineSettings (DeSTSeg: 100 of 256 x 256 pixels).
        sigma: standard deviation in pixels of the Gaussian that smooths the discrepancy (DeSTSeg: none).
        training: how student and head are trained.

    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    symmetric: bool = False
    head: bool = True
    far: bool = False
    head_weight: float = 1.0
    gamma: float = 4.0
    dropout: float = 0.3
    width: int = 32
    min_cover: float = 0.2
    distance: Literal["cosine", "relative"] = "relative"
    synthesis: Synthesis | None = None
    top_share: float = 0.0015
    sigma: float = 2.0
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.head_weight < 0 or self.gamma < 0 or self.width < 8 or not 0 < self.min_cover <= 1:
            msg = "head_weight and gamma must be 0 or more, width at least 8, min_cover above 0 and at most 1"
            raise ValueError(msg)
        if self.far and not self.head:
            msg = "far must be false where head is: there is nothing to look"
            raise ValueError(msg)
        if not 0 <= self.dropout < 1:
            msg = "dropout must be 0 or more and below 1"
            raise ValueError(msg)
