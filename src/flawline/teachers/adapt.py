"""Adaptation: tune a teacher to one line on its normal pictures, with irregularities planted into them.

The tasks are those of pre-training (`flawline.teachers.pretexts`): normal patches must lie close to those of other
items of the line, planted irregularities far away, and a linear head learns to mark them. What the head says
becomes one more channel of the features, so that the banks compare it like everything else. No defect and no label
is used, and serving changes nothing but the graph.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from flawline.teachers.generator import Dice, Episode
from flawline.teachers.generator.formula import Formulas
from flawline.teachers.generator.irregular import plant
from flawline.teachers.pretexts import Bank, Marks, Seen
from flawline.teachers.teacher import Teacher, even_exposure
from flawline.training.state import CHECKPOINT_SECONDS, TrainingState


class AdaptConfig(BaseModel):
    """Settings of the adaptation of a teacher to a line.

    Attributes:
        steps: of tuning; 0 leaves the teacher as it is.
        learning_rate: at the start; it falls to 0 along a cosine.
        crop: side in pixels of the crops it learns from, a multiple of 8; at most the whole square.
        normals: crops in a step's bank.
        tested: crops in a step that get irregularities, of other items than those in the bank.
        mark_weight: of the head's channel among the features; 0 leaves it out.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(0, ge=0)
    learning_rate: float = Field(3e-4, gt=0)
    crop: int = Field(128, ge=64, multiple_of=8)
    normals: int = Field(6, ge=1)
    tested: int = Field(6, ge=1)
    mark_weight: float = Field(1.0, ge=0)

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
    checkpoint: Path | None = None,
    identity: Mapping[str, object] | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[Teacher, float]:
    """Tune a copy of `teacher` on normal pictures.

    Args:
        teacher: stays as it is.
        pictures: UINT8 [S, S, 3] each, model squares of normal pictures of at least two items.
        items: which item each picture shows: those tested are compared with other items.
        config: settings.
        seed: of every random choice.
        checkpoint: file to keep the state in, every CHECKPOINT_SECONDS and at the end; when it is there already,
            tuning goes on from it, to the same teacher as in one piece.
        identity: what the state belongs to, as JSON values.
        progress: called after every step with the share done, 0 to 1.

    Returns:
        A teacher on the same device, whose maps are those of the same layers and, with a `mark_weight`, one of one
        channel on the finest grid; `teacher` itself when there are no steps. And the seconds spent on it before
        this call.

    Raises:
        ArtefactError: the checkpoint is damaged, or of another adaptation.

    """
    if not config.steps:
        return teacher, 0.0
    device = teacher.mean.device
    tuned = copy.deepcopy(teacher)
    tuned.backbone.requires_grad_(requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bank, marks = Bank(tuned.channels).to(device), Marks(tuned.channels).to(device)
    rates = (config.learning_rate, 5 * config.learning_rate)
    optimiser = torch.optim.AdamW(
        [
            {"params": list(tuned.backbone.parameters())},
            {"params": [*bank.parameters(), *marks.parameters()]},
        ],
        weight_decay=0.01,
    )
    state = TrainingState(nn.ModuleList((tuned.backbone, bank, marks)), optimiser, identity or {})
    step, before, losses = 0, 0.0, list[float]()
    if checkpoint is not None and checkpoint.exists():
        step, before, losses = state.load(checkpoint)
    started = saved = time.monotonic()
    crops = _Crops(pictures, items, teacher, config)
    while step < config.steps:
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        normal, tested, irregular = crops.draw(Dice(seed * 1_000_003 + step, device))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            maps = tuned.backbone((torch.cat((normal, tested)) * 255 - tuned.mean) / tuned.std)
        pieces = [part.float()[None].split((len(normal), len(tested)), dim=1) for part in maps]
        seen = Seen([one for one, _ in pieces], [other for _, other in pieces], [], torch.zeros(1))
        episode = Episode(normal[None], tested[None], irregular[None], None)
        loss = bank(seen, episode) + marks(seen, episode)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(tuned.backbone.parameters(), 5.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        step += 1
        if progress is not None:
            progress(step / config.steps)
        if checkpoint is not None and (step == config.steps or time.monotonic() - saved > CHECKPOINT_SECONDS):
            state.save(checkpoint, step, before + time.monotonic() - started, losses)
            saved = time.monotonic()
    tuned.backbone.requires_grad_(requires_grad=False)
    if config.mark_weight:
        tuned.add_marks(marks.heads, config.mark_weight)
    return tuned, before


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
