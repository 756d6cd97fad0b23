"""The training loop: steps or a budget of time, learning rates, progress, checkpoints, and going on from one."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from flawline.errors import DataError
from flawline.files import kept_if_possible
from flawline.training.state import TrainingState

CHECKPOINT_SECONDS = 30
"""Seconds between two checkpoints: the most that an interruption loses."""


MOST_STEPS = 10_000_000
"""Most steps of a training: weeks on any machine."""


@dataclass(frozen=True)
class Training:
    """How a training went.

    Attributes:
        steps: number of steps done, in all runs.
        seconds: seconds spent on them, in all runs.
        seconds_before: seconds of those spent before this run, which went on from a checkpoint.
        losses: mean loss of each tenth of the steps, rounded to 5 decimals.

    """

    steps: int
    seconds: float
    seconds_before: float
    losses: tuple[float, ...]


def train(
    step: Callable[[int, float], Tensor],
    state: TrainingState,
    *,
    steps: int | None,
    rates: Callable[[int, float], Sequence[float]],
    clip: Sequence[float | None],
    budget: float | None = None,
    checkpoint: Path | None = None,
    after: Callable[[int], None] | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Training:
    """Train the modules of `state` in place until the steps or the budget are used up, after one step at least.

    A step must depend on nothing but its number, the share done and the modules. An interrupted training without a
    budget then goes on to the weights of an unbroken one. A checkpoint holds the state after a whole step and is
    replaced as a whole, so an interruption at any moment leaves it usable.

    Args:
        step: gives the loss of a step, a scalar, from the number of steps done before and the share done, at least
            0 and below 1. It draws its batch from the number, and may freeze parts of the modules late in training.
        state: modules, optimiser and how far training is.
        steps: number of steps; None leaves the end to the budget.
        rates: gives the learning rate of each parameter group of the optimiser, from the same as `step`.
        clip: largest norm of the gradients of each parameter group, taken together; None does not clip a group.
        budget: seconds after which training ends, those before an interruption included; None leaves the end to the
            steps. The share done is that of the steps or of the budget, whichever is nearer to its end.
        checkpoint: file to keep the state in, every CHECKPOINT_SECONDS and at the end. If it exists, training goes
            on from it. None keeps none. Where it cannot be written, that is said, and training goes on.
        after: called after every update of the weights with the number of steps done.
        progress: called after every step with the share done, 0 to 1, and the step's loss.

    Returns:
        How it went. A checkpoint of a finished training gives its weights without another step.

    Raises:
        ArtefactError: the checkpoint is damaged, or of another training.
        DataError: the loss is not finite.
        ValueError: neither steps nor a budget is given.

    """
    if steps is None and budget is None:
        msg = "give steps or a budget, or training would never end"
        raise ValueError(msg)
    if checkpoint is not None and checkpoint.exists():
        state.load(checkpoint)
    groups, before = state.optimiser.param_groups, state.seconds
    started = saved = time.monotonic()
    done = _share_done(state, steps, budget)
    while done < 1:
        loss = step(state.step, done)
        value = float(loss.detach())
        if not math.isfinite(value):
            msg = f"the loss is {value} at step {state.step}; lower the learning rate in the recipe"
            raise DataError(msg)
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group, rate, norm in zip(groups, rates(state.step, done), clip, strict=True):
            group["lr"] = rate
            if norm is not None:
                nn.utils.clip_grad_norm_(group["params"], norm)
        state.optimiser.step()
        state.step += 1
        if after is not None:
            after(state.step)
        state.losses.append(value)
        state.seconds = before + time.monotonic() - started
        done = _share_done(state, steps, budget)
        if progress is not None:
            progress(done, value)
        if checkpoint is not None and (done >= 1 or time.monotonic() - saved > CHECKPOINT_SECONDS):
            with kept_if_possible(checkpoint):
                state.save(checkpoint)
            saved = time.monotonic()
    return Training(state.step, state.seconds, before, _tenths(state.losses))


def freeze_statistics(module: nn.Module) -> None:
    """Let batch normalisation keep its statistics, as it will in use."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()


def _share_done(state: TrainingState, steps: int | None, budget: float | None) -> float:
    """Give the larger of the shares of steps and budget that are used up: 0 to 1, and 0 before the first step."""
    if state.step == 0:
        return 0.0
    by_steps = 0.0 if steps is None else state.step / steps
    if budget is None:
        return min(by_steps, 1.0)
    return min(max(by_steps, state.seconds / budget if budget > 0 else 1.0), 1.0)


def _tenths(losses: Sequence[float]) -> tuple[float, ...]:
    size = max(1, -(-len(losses) // 10))
    parts = [losses[start : start + size] for start in range(0, len(losses), size)]
    return tuple(round(sum(part) / len(part), 5) for part in parts)
