"""Train a student on pairs of clean and corrupted crops."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from flawline.detectors.students.crops import Crops
from flawline.detectors.students.variation import VariationConfig
from flawline.training import MOST_STEPS, Training, TrainingState, freeze_statistics, train

_FREEZE_AT = 0.8
"""Share of training after which batch normalisation keeps its statistics, as it will in use."""


class TrainingConfig(BaseModel):
    """How a student is trained.

    Attributes:
        steps: number of optimiser steps, at least 1; a budget of time may end training before.
        pairs: number of clean crops in a step, at least 1; each comes with its corrupted twin.
        crop: side in pixels of the crops, a multiple of 32 from 64 on; the whole square where that is smaller.
        learning_rate: learning rate at the start, above 0; it falls to a hundredth along a cosine.
        weight_decay: weight decay of AdamW, 0 or more.
        vary: how good pictures are varied before crops are cut out of them.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(1000, ge=1, le=MOST_STEPS)
    pairs: int = Field(8, ge=1, le=256)
    crop: int = Field(128, ge=64, le=1024, multiple_of=32)
    learning_rate: float = Field(2e-3, gt=0, le=1)
    weight_decay: float = Field(1e-4, ge=0, le=1)
    vary: VariationConfig = VariationConfig()


class Trainable(Protocol):
    """What `train_student` asks of a student, beside being an nn.Module."""

    def loss(
        self, pixels: Tensor, clean: Sequence[Tensor], corrupted: Sequence[Tensor], mask: Tensor
    ) -> Tensor:
        """See sacd.model.SACD.loss."""
        ...


def train_student(
    student: nn.Module,
    teacher: Callable[[Tensor], list[Tensor]],
    crops: Crops,
    config: TrainingConfig,
    *,
    budget: float | None = None,
    checkpoint: Path | None = None,
    identity: Mapping[str, object] | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Training:
    """Train `student` in place, and leave it frozen in evaluation mode.

    Args:
        student: an nn.Module that is Trainable, on the device of the crops.
        teacher: frozen teacher; turns prepared pixels FP32 [B, 3, C, C] into the maps that the student compares.
        crops: pairs to learn from.
        config: settings of the training.
        budget: seconds, as `flawline.training.train` takes them.
        checkpoint: file for the state, as `flawline.training.train` takes it.
        identity: what the training depends on beside `config`, as JSON values: recipe, data, teacher, seed.
        progress: called after every step with the share done, 0 to 1, and the loss.

    Returns:
        How it went.

    Raises:
        ArtefactError: the checkpoint is damaged, or of another training.
        DataError: the loss is not finite.

    """
    student.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(
        student.parameters(), lr=config.learning_rate, betas=(0.5, 0.999), weight_decay=config.weight_decay
    )

    def step(number: int, done: float) -> Tensor:
        if done >= _FREEZE_AT:
            freeze_statistics(student)
        return _loss(student, teacher, crops, number, config.pairs)

    def rates(_number: int, done: float) -> tuple[float]:
        return (config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))),)

    told = {**(identity or {}), "training": config.model_dump(mode="json")}
    training = train(
        step,
        TrainingState({"weight": student}, optimiser, told),
        steps=config.steps,
        rates=rates,
        clip=(5.0,),
        budget=budget,
        checkpoint=checkpoint,
        progress=progress,
    )
    student.eval().requires_grad_(requires_grad=False)
    return training


def _loss(
    student: nn.Module, teacher: Callable[[Tensor], list[Tensor]], crops: Crops, step: int, pairs: int
) -> Tensor:
    batch = crops.draw(step, pairs)
    both = torch.cat((batch.clean, batch.corrupted)).contiguous(memory_format=torch.channels_last)
    with torch.autocast(both.device.type, dtype=torch.bfloat16):
        with torch.no_grad():
            maps = [part.float() for part in teacher(both)]
        clean, corrupted = zip(*(part.chunk(2) for part in maps), strict=True)
        with _dice(crops.seed, step, both.device):
            loss: Tensor = student.loss(batch.corrupted, clean, corrupted, batch.mask)  # type: ignore[operator]
    return loss


@contextmanager
def _dice(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """What a student draws at random (dropout) follows from seed and step alone, so that a training can go on."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed * 1_000_003 + step)
        yield
