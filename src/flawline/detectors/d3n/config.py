"""Settings of `d3n`."""

from pydantic import BaseModel, ConfigDict, Field

from flawline.detectors.d3n.diffusion.config import DiffusionConfig
from flawline.detectors.d3n.pictures import VaryConfig
from flawline.detectors.part import PartConfig
from flawline.training import MOST_STEPS


class DetectorTrainingConfig(BaseModel):
    """How the light detector is trained.

    Attributes:
        steps: number of optimiser steps, at least 1; a budget of time may end training before.
        batch: number of pictures in a step, at least 1.
        learning_rate: highest learning rate, above 0, of neck and head; it rises at first, then falls.
        backbone_rate: learning rate of the backbone as a share of that, 0 to 1.
        warm_up: share of the training in which the learning rate rises, 0 to 0.5.
        weight_decay: weight decay of AdamW, 0 or more.
        average: share that the running average of the weights keeps at a step, late in training, in [0, 1).
        frozen: share of the backbone's layers, from the picture on, that keep what they learnt before, 0 to 1;
            edges and textures are the same everywhere, and the finest maps cost the most time.
        frozen_statistics: whether the backbone's batch normalisation keeps the statistics of its first training,
            since those of a few pictures are too rough.
        vary: how pictures are changed before they are learnt.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(3600, ge=1, le=MOST_STEPS)
    batch: int = Field(8, ge=1, le=256)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    backbone_rate: float = Field(0.3, ge=0, le=1)
    warm_up: float = Field(0.05, ge=0, le=0.5)
    weight_decay: float = Field(0.05, ge=0, le=1)
    average: float = Field(0.998, ge=0, lt=1)
    frozen: float = Field(0.2, ge=0, le=1)
    frozen_statistics: bool = True
    vary: VaryConfig = VaryConfig()


class D3NConfig(PartConfig):
    """Settings of the detector of boxes.

    Attributes:
        layers: see PartConfig; null takes the stages from half of the depth on: strides 8, 16 and 32, or the first
            two of these where the teacher ends at 16.
        width: channels of the pyramid and the head.
        overlap: overlap (intersection over union) above which the weaker of two boxes of one class goes.
        precision: share of the boxes shown that must be right on held-out labelled pictures, where there are no
            good pictures to set the threshold by; see flawline.scoring.labelled.
        training: how the detector is trained; with diffusion each of the two.
        diffusion: the diffusion side, which teaches the light detector; null trains it by labels alone.

    """

    width: int = Field(96, ge=16, le=512, multiple_of=8)
    overlap: float = Field(0.5, gt=0, lt=1)
    precision: float = Field(0.8, gt=0, lt=1)
    training: DetectorTrainingConfig = Field(default_factory=DetectorTrainingConfig)
    diffusion: DiffusionConfig | None = None
