"""Train a student: steps or a time budget, progress, checkpoints, and going on from one."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from flawline.detectors.students.crops import Crops
from flawline.detectors.students.variation import VariationConfig
from flawline.errors import DataError
from flawline.training.state import CHECKPOINT_SECONDS, TrainingState

_FREEZE_AT = 0.8
"""Share of training after which batch normalisation keeps its statistics, as it will in use."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a student is trained.

    Attributes:
        steps: of the optimiser, if no time budget ends training before.
        pairs: clean and corrupted crops in a step: half of the batch is corrupted.
        crop: side in pixels of the crops, a multiple of 32; at most the whole square.
        learning_rate: at the start; it falls to a hundredth along a cosine.
        weight_decay: of AdamW.
        vary: how good pictures are varied before crops are cut out of them.

    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    steps: int = 1000
    pairs: int = 8
    crop: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    vary: VariationConfig = field(default_factory=VariationConfig)

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.steps < 1 or self.pairs < 1 or self.crop < 64 or self.crop % 32:
            msg = "steps and pairs must be at least 1, crop a multiple of 32 from 64 on"
            raise ValueError(msg)
        if self.learning_rate <= 0 or self.weight_decay < 0:
            msg = "learning_rate must be above 0 and weight_decay 0 or more"
            raise ValueError(msg)


class Trainable(Protocol):
    """What `train` asks of a student, beside being an nn.Module."""

    def loss(
        self, pixels: Tensor, clean: Sequence[Tensor], corrupted: Sequence[Tensor], mask: Tensor
    ) -> Tensor:
        """See sacd.model.SACD.loss."""
        ...


@dataclass(frozen=True)
class Training:
    """How a training went: steps done, seconds in all and before this call, and the mean loss of each tenth."""

    steps: int
    seconds: float
    seconds_before: float
    losses: tuple[float, ...]


def train(
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
    """Train `student` in place.

    Args:
        student: an nn.Module that is Trainable, on the device of the crops.
        teacher: frozen; prepared pixels FP32 [B, 3, C, C] to the maps that the student compares.
        crops: pairs to learn from.
        config: settings.
        budget: seconds after which training ends, those before an interruption included; the learning rate falls
            by whichever of steps and budget is nearer to its end.
        checkpoint: file to keep the state in, every CHECKPOINT_SECONDS and at the end; when it is there already,
            training goes on from it.
        identity: what the state belongs to: recipe, data, teacher, seed, as JSON values.
        progress: called after every step with the share done, 0 to 1, and the loss.

    Returns:
        How it went. Without a budget, an interrupted and continued training gives the same weights as one piece.

    Raises:
        ArtefactError: the checkpoint is damaged, or of another recipe, data, teacher or seed.
        DataError: the loss is not finite.

    """
    student.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(
        student.parameters(), lr=config.learning_rate, betas=(0.5, 0.999), weight_decay=config.weight_decay
    )
    state = TrainingState(student, optimiser, {**(identity or {}), "training": asdict(config)})
    step, spent = 0, 0.0
    losses: list[float] = []
    if checkpoint is not None and checkpoint.exists():
        step, spent, losses = state.load(checkpoint)
    before = spent
    started, saved = time.monotonic() - before, time.monotonic()
    done = _share(step, spent, config.steps, budget)
    while done < 1:
        if done >= _FREEZE_AT:
            _freeze_statistics(student)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        losses.append(_step(student, teacher, crops, optimiser, step, config.pairs))
        step += 1
        spent = time.monotonic() - started
        done = _share(step, spent, config.steps, budget)
        if progress is not None:
            progress(done, losses[-1])
        if checkpoint is not None and (done >= 1 or time.monotonic() - saved > CHECKPOINT_SECONDS):
            state.save(checkpoint, step, spent, losses)
            saved = time.monotonic()
    student.eval().requires_grad_(requires_grad=False)
    return Training(step, spent, before, _tenths(losses))


def _share(step: int, spent: float, steps: int, budget: float | None) -> float:
    return max(step / steps, 0.0 if budget is None else spent / budget)


def _step(
    student: nn.Module,
    teacher: Callable[[Tensor], list[Tensor]],
    crops: Crops,
    optimiser: torch.optim.Optimizer,
    step: int,
    pairs: int,
) -> float:
    batch = crops.draw(step, pairs)
    both = torch.cat((batch.clean, batch.corrupted)).contiguous(memory_format=torch.channels_last)
    with torch.autocast(both.device.type, dtype=torch.bfloat16):
        with torch.no_grad():
            maps = [part.float() for part in teacher(both)]
        clean, corrupted = zip(*(part.chunk(2) for part in maps), strict=True)
        with _dice(crops.seed, step, both.device):
            loss: Tensor = student.loss(batch.corrupted, clean, corrupted, batch.mask)  # type: ignore[operator]
    value = float(loss.detach())
    if not torch.isfinite(loss):
        msg = f"the loss is {value} at step {step}; lower the learning rate in the recipe"
        raise DataError(msg)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(student.parameters(), 5.0)
    optimiser.step()
    return value


@contextmanager
def _dice(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """What a student draws at random (dropout) follows from seed and step alone, so that a training can go on."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed * 1_000_003 + step)
        yield


def _freeze_statistics(student: nn.Module) -> None:
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _tenths(losses: Sequence[float]) -> tuple[float, ...]:
    size = max(1, -(-len(losses) // 10))
    parts = [losses[start : start + size] for start in range(0, len(losses), size)]
    return tuple(round(sum(part) / len(part), 5) for part in parts)
