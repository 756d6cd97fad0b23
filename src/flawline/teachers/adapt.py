"""Adaptation: tune a teacher to one line on its normal pictures, with irregularities planted into them.

The tasks are those of pre-training (`flawline.teachers.pretexts`): normal patches must lie close to those of other
items of the line, planted irregularities far away, and a linear head learns to mark them. What the head says
becomes one more channel of the features, so that the banks compare it like everything else. No defect and no label
is used, and serving changes nothing but the graph.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from flawline.teachers.generator import Dice, Episode
from flawline.teachers.generator.formula import Formulas
from flawline.teachers.generator.irregular import plant
from flawline.teachers.pretexts import Bank, Marks, Seen
from flawline.teachers.teacher import Teacher, even_exposure
from flawline.training import MOST_STEPS, Training, TrainingState, train


class AdaptConfig(BaseModel):
    """Settings of the adaptation of a teacher to a line.

    Attributes:
        steps: number of optimiser steps; 0 leaves the teacher as it is. A budget of time may end it before.
        learning_rate: learning rate at the start, above 0; it falls to 0 along a cosine.
        crop: side in pixels of the crops it learns from, a multiple of 8 from 64 on; the whole square where that is
            smaller.
        normals: number of crops in a step's bank, at least 1.
        tested: number of crops in a step that get irregularities, at least 1; they show other items than the bank.
        mark_weight: weight of the head's channel among the features, 0 or more; 0 leaves it out.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(0, ge=0, le=MOST_STEPS)
    learning_rate: float = Field(3e-4, gt=0, le=1)
    crop: int = Field(128, ge=64, le=1024, multiple_of=8)
    normals: int = Field(6, ge=1, le=256)
    tested: int = Field(6, ge=1, le=256)
    mark_weight: float = Field(1.0, ge=0, le=1000)

    @property
    def statement(self) -> str:
        """In words, for the report."""
        return f"tuned to the line in {self.steps} steps" if self.steps else "none, the teacher as it comes"


def adapt(
    teacher: Teacher,
    pictures: Sequence[NDArray[np.uint8]],
    items: Sequence[str],
    config: AdaptConfig,
    *,
    seed: int,
    budget: float | None = None,
    checkpoint: Path | None = None,
    identity: Mapping[str, object] | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[Teacher, Training | None]:
    """Tune a copy of `teacher` on normal pictures.

    Args:
        teacher: teacher to copy; it stays as it is.
        pictures: UINT8 [S, S, 3] each, model squares of normal pictures of at least two items.
        items: which item each picture shows: those tested are compared with other items.
        config: settings of the adaptation.
        seed: seed of every random choice.
        budget: seconds, as `flawline.training.train` takes them.
        checkpoint: file for the state, as `flawline.training.train` takes it.
        identity: what the training depends on beside `config` and `seed`, as JSON values: teacher, pictures.
        progress: called after every step with the share done, 0 to 1.

    Returns:
        A teacher on the same device, whose maps are those of the same layers and, with a `mark_weight`, one of one
        channel on the finest grid; `teacher` itself when there are no steps. And how the training went, None when
        there are no steps.

    Raises:
        ArtefactError: the checkpoint is damaged, or of another training.
        DataError: the loss is not finite.

    """
    if not config.steps:
        return teacher, None
    device = teacher.mean.device
    tuned = copy.deepcopy(teacher)
    tuned.backbone.requires_grad_(requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bank, marks = Bank(tuned.channels).to(device), Marks(tuned.channels).to(device)
    optimiser = torch.optim.AdamW(
        [
            {"params": list(tuned.backbone.parameters())},
            {"params": [*bank.parameters(), *marks.parameters()]},
        ],
        weight_decay=0.01,
    )
    crops = _Crops(pictures, items, teacher, config)

    def step(number: int, _done: float) -> Tensor:
        normal, tested, irregular = crops.draw(Dice(seed * 1_000_003 + number, device))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            maps = tuned.backbone((torch.cat((normal, tested)) * 255 - tuned.mean) / tuned.std)
        pieces = [part.float()[None].split((len(normal), len(tested)), dim=1) for part in maps]
        seen = Seen([one for one, _ in pieces], [other for _, other in pieces], [], torch.zeros(1))
        episode = Episode(normal[None], tested[None], irregular[None], None)
        return cast(Tensor, bank(seen, episode) + marks(seen, episode))

    def rates(_number: int, done: float) -> tuple[float, float]:
        fall = 0.5 * (1 + math.cos(math.pi * done))
        return config.learning_rate * fall, 5 * config.learning_rate * fall

    told = {**(identity or {}), "adapt": config.model_dump(mode="json"), "seed": seed}
    training = train(
        step,
        TrainingState({"backbone": tuned.backbone, "bank": bank, "marks": marks}, optimiser, told),
        steps=config.steps,
        rates=rates,
        clip=(5.0, None),
        budget=budget,
        checkpoint=checkpoint,
        progress=None if progress is None else lambda done, _loss: progress(done),
    )
    tuned.backbone.requires_grad_(requires_grad=False)
    if config.mark_weight:
        tuned.add_marks(marks.heads, config.mark_weight)
    return tuned, training


class _Crops:
    """Draws crops of normal pictures, and plants into some."""

    def __init__(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        items: Sequence[str],
        teacher: Teacher,
        config: AdaptConfig,
    ) -> None:
        self.pictures, self.config = pictures, config
        self.crop = min(config.crop, pictures[0].shape[0])
        shown: dict[str, list[int]] = {}
        for number, item in enumerate(items):
            shown.setdefault(item, []).append(number)
        self.shown = list(shown.values())
        self.even = teacher.even_exposure
        self.device = teacher.mean.device

    def draw(self, dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a step's crops.

        Returns:
            Normal and tested crops, FP32 [N, 3, C, C] and [Q, 3, C, C], about 0 to 1, and where the latter are
            irregular, FP32 [Q, C, C].

        """
        config = self.config
        order = dice.uniform(len(self.shown)).argsort().tolist()
        middle = len(order) // 2
        # A single item can only be compared with itself.
        normal = self._crops(order[:middle] or order, config.normals, dice)
        tested, others = self._crops(order[middle:], 2 * config.tested, dice).chunk(2)
        other = others.mean(dim=1).flip(2)
        other = (other - other.mean(dim=(1, 2), keepdim=True)) / (other.std(dim=(1, 2), keepdim=True) + 1e-3)
        foreign = Formulas.draw(dice, config.tested).surfaces(self.crop, dice)
        other = torch.where(dice.chance(config.tested, 1, 1, share=0.5), other, foreign)
        tested, first = plant(tested, other, dice, share=0.8)
        tested, second = plant(tested, other, dice, share=0.5)
        return normal, tested, torch.maximum(first, second)

    def _crops(self, items: list[int], count: int, dice: Dice) -> Tensor:
        """Crops of `count` pictures of the given items, an item at a time, FP32 [count, 3, C, C]."""
        size, side = self.crop, self.pictures[0].shape[0]
        places = dice.integers(count, 2, high=max(side - size, 0) + 1).tolist()
        which = dice.integers(count, high=2**31).tolist()
        parts = []
        for turn, (top, left) in enumerate(places):
            pictures = self.shown[items[turn % len(items)]]
            chosen = self.pictures[pictures[which[turn] % len(pictures)]]
            whole = torch.from_numpy(chosen).to(self.device).permute(2, 0, 1)[None].float()
            if self.even:
                whole = even_exposure(whole)
            parts.append(whole[..., top : top + size, left : left + size] / 255)
        return torch.cat(parts)
