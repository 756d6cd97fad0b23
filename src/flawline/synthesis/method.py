"""What a synthesis method is: settings that, given the material of a line, make a synthesizer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from flawline.errors import RecipeError
from flawline.scoring.picture import Pixels
from flawline.synthesis.base import MIN_PIXELS, Mask, Sources
from flawline.training import Budget


class Synthesizer(Protocol):
    """Makes defects. Holds no random state: the same picture and generator state give the same defect."""

    def __call__(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """Return a copy of a normal picture with one synthetic defect, and its mask.

        Args:
            picture: picture to put the defect on, UINT8 [H, W, 3], RGB, any H and W from 16 pixels on; it is not
                written to.
            rng: source of all randomness.

        Returns:
            UINT8 [H, W, 3], and BOOL [H, W] that is True exactly where it differs from `picture`. A picture
            without colour stays without colour.

        Raises:
            DataError: `picture` is of another form, or too small for a defect of the fewest pixels.

        """
        ...


@dataclass(frozen=True)
class Material:
    """What a line offers to a method. Functions are called only by methods that need what they give.

    Attributes:
        sources: normal pictures to take material from; an empty sequence makes each picture its own source.
        learned: function that reads the normal pictures a diffusion model learns, UINT8 [H, W, 3] each.
        masks: function that reads the masks of labelled defects, BOOL [h, w] each, of any sizes.
        seed: seed of every random choice of a training, 0 or above.
        device: `cpu` or `cuda`, on which models are trained and run.
        checkpoint: folder for the state of a training and what it made; None keeps none.
        budget: time for what the method trains.
        min_pixels: fewest pixels of a defect, at least 1.

    Raises:
        RecipeError: `min_pixels` is below 1.

    """

    sources: Sources = ()
    learned: Callable[[], Sequence[Pixels]] = tuple
    masks: Callable[[], Sequence[Mask]] = tuple
    seed: int = 0
    device: str = "cpu"
    checkpoint: Path | None = None
    budget: Budget = field(default_factory=Budget)
    min_pixels: int = MIN_PIXELS

    def __post_init__(self) -> None:
        if self.min_pixels < 1:
            msg = f"min_pixels is {self.min_pixels}; a defect has at least 1 pixel"
            raise RecipeError(msg)


class MethodConfig(BaseModel):
    """Settings of a method; each method has a subclass of its own, registered under its name.

    Attributes:
        method: name of the method, fixed by each subclass.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: str

    @property
    def trainings(self) -> int:
        """How many models `prepare` trains."""
        return 0

    @property
    def labelled(self) -> bool:
        """Whether `prepare` uses the masks of labelled defects."""
        return False

    def prepare(self, material: Material) -> Synthesizer:
        """Make the synthesizer of a line; whatever has to be trained or loaded for it is done here.

        Raises:
            FlawlineError: what the method needs cannot be had.

        """
        raise NotImplementedError
