"""Settings of `ddpm_ast`."""

from typing import Self

from pydantic import Field, model_validator

from flawline.detectors.students.config import StudentConfig
from flawline.scoring.settings import MOST_SIGMA


class DDPMASTConfig(StudentConfig):
    """Every choice of the network and its loss.

    Attributes:
        symmetric: whether the student has the teacher's own layout, for the ablation.
        head: whether the segmentation head scores; without it the product of the levels' distances does.
        far: whether the head looks further, along a defect (DeSTSeg's looks far too, by ASPP).
        head_weight: weight of the segmentation loss beside the cosine loss.
        gamma: exponent of the focal loss (DeSTSeg: 4).
        dropout: share of the channels of the agreement that the head does without in a step (DeSTSeg: none).
        width: channels of the first stage of the student's encoder; each further stage has twice as many.
        min_cover: share of a place that a mask covers from which the place counts as defective.
        synthesis: see StudentConfig (paper: a diffusion model's pictures in Perlin regions).
        top_share: see StudentConfig (DeSTSeg: 100 of 256 x 256 pixels).
        sigma: see StudentConfig (DeSTSeg: none).

    """

    symmetric: bool = False
    head: bool = True
    far: bool = False
    head_weight: float = Field(1.0, ge=0, le=1000)
    gamma: float = Field(4.0, ge=0, le=100)
    dropout: float = Field(0.3, ge=0, lt=1)
    width: int = Field(32, ge=8, le=1024)
    min_cover: float = Field(0.2, gt=0, le=1)
    top_share: float = Field(0.0015, ge=0, le=1)
    sigma: float = Field(2.0, ge=0, le=MOST_SIGMA)

    @model_validator(mode="after")
    def _far_needs_a_head(self) -> Self:
        if self.far and not self.head:
            msg = "far must be false where head is: there is nothing to look"
            raise ValueError(msg)
        return self
