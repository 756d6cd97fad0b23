"""Settings of `segmenter`."""

from pydantic import BaseModel, ConfigDict, Field

from flawline.detectors.part import PartConfig
from flawline.detectors.students.variation import VariationConfig
from flawline.scoring.settings import MOST_SIGMA, MOST_WEIGHT
from flawline.synthesis import Synthesis
from flawline.training import MOST_STEPS


class TuningConfig(BaseModel):
    """How the network is trained.

    Attributes:
        steps: number of optimiser steps, at least 1; a budget of time may end training before.
        pairs: number of clean crops in a step, at least 1; each comes with its corrupted twin.
        crop: side in pixels of the crops, a multiple of 32 from 64 on; the whole square where that is smaller.
        learning_rate: highest learning rate, above 0, of what is new; it rises at first, then falls along a cosine.
        backbone_rate: learning rate of the backbone as a share of that, 0 to 1.
        weight_decay: weight decay of AdamW, 0 or more.
        average: share that the running average of the weights keeps at a step, late in training, in [0, 1).
        vary: how good pictures are varied before crops are cut out of them.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(3000, ge=1, le=MOST_STEPS)
    pairs: int = Field(4, ge=1, le=256)
    crop: int = Field(256, ge=64, le=1024, multiple_of=32)
    learning_rate: float = Field(2e-3, gt=0, le=1)
    backbone_rate: float = Field(0.1, ge=0, le=1)
    weight_decay: float = Field(1e-4, ge=0, le=1)
    average: float = Field(0.998, ge=0, lt=1)
    vary: VariationConfig = VariationConfig(flips=True, zoom=1.25, light=0.2, trim=4)


class SegmenterConfig(PartConfig):
    """Settings of the segmenter.

    Attributes:
        layers: see PartConfig; null takes the stages at all quarters of the depth.
        weight: see PartConfig; as much as memory banks have.
        synthesis: method that makes the defects to learn from; null takes that of the recipe.
        width: channels of the pyramid.
        top_share: share of the pixels, the strongest of the smoothed map, whose mean is the picture's score.
        sigma: standard deviation in pixels of the Gaussian that smooths the map.
        training: how the network is trained.

    """

    weight: float = Field(0.75, ge=0, le=MOST_WEIGHT)
    synthesis: Synthesis | None = None
    width: int = Field(48, ge=8, le=512)
    top_share: float = Field(0.01, ge=0, le=1)
    sigma: float = Field(4.0, ge=0, le=MOST_SIGMA)
    training: TuningConfig = Field(default_factory=TuningConfig)
