"""Train a detector on labelled pictures."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from flawline.detectors.d3n.config import DetectorTrainingConfig
from flawline.detectors.d3n.losses import Targets, losses
from flawline.detectors.d3n.network import Detector
from flawline.detectors.d3n.pictures import Batch, Labelled
from flawline.teachers import Teacher
from flawline.training import Training, TrainingState, follow, freeze_statistics, train

_NORM = 10.0
"""Largest norm of the gradients of a group of weights."""
_LAST = 0.01
"""Learning rate at the end, as a share of the highest."""

Guide = Callable[[Batch, Tensor, list[Tensor]], Tensor]
"""Gives one more loss, a scalar, from a batch, its prepared pixels and the pyramid that the detector makes; its own
weights, where it is a module, learn with the detector."""
Refine = Callable[[Batch, list[Tensor]], list[Tensor]]
"""Gives the pyramid that the head sees, from a batch and the pyramid that the detector makes."""


def train_detector(
    detector: Detector,
    teacher: Teacher,
    pictures: Labelled,
    config: DetectorTrainingConfig,
    *,
    seed: int,
    guide: Guide | None = None,
    refine: Refine | None = None,
    budget: float | None = None,
    checkpoint: Path | None = None,
    identity: Mapping[str, object] | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Training:
    """Train `detector` in place, and leave the running average of its weights in it, frozen, in evaluation mode.

    Args:
        detector: network, on the device of the teacher.
        teacher: prepares pictures as they are prepared in use.
        pictures: labelled pictures.
        config: settings of the training.
        seed: seed of every random choice.
        guide: one more loss; None has none.
        refine: refines the pyramid before the head, by modules of the detector; None leaves it.
        budget: seconds, as `flawline.training.train` takes them.
        checkpoint: file for the state, as `flawline.training.train` takes it.
        identity: what the training depends on beside `config` and `seed`, as JSON values.
        progress: called after every step with the share done, 0 to 1, and the loss.

    Returns:
        How it went.

    Raises:
        ArtefactError: the checkpoint is damaged, or of another training.
        DataError: the loss is not finite.

    """
    detector.requires_grad_(requires_grad=True)
    frozen = _frozen(detector.body, config.frozen)
    detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(detector).eval().requires_grad_(requires_grad=False)
    learning = {"guide": guide} if isinstance(guide, nn.Module) else {}
    groups, shares = _groups([*detector.children(), *learning.values()], detector.body, config)
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    device = teacher.mean.device

    def step(number: int, _done: float) -> Tensor:
        detector.train()
        for each in [detector.body] if config.frozen_statistics else frozen:
            freeze_statistics(each)
        batch = pictures.draw(number, config.batch, config.vary, seed)
        pixels = teacher.prepare(batch.pixels.to(device)).contiguous(memory_format=torch.channels_last)
        targets = Targets(*(each.to(device) for each in batch.targets))
        # On CPUs the gradients of depthwise convolutions are slower in BF16 than in FP32.
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            pyramid = detector.pyramid(pixels)
            outputs = detector.head(pyramid if refine is None else refine(batch, pyramid))
        total = torch.stack(list(losses(outputs, targets).values())).sum()
        return total if guide is None else total + guide(batch, pixels, pyramid)

    def rates(_number: int, done: float) -> list[float]:
        return [config.learning_rate * share * _schedule(done, config.warm_up) for share in shares]

    def after(done: int) -> None:
        follow(average, detector, done, config.average)

    told = {**(identity or {}), "training": config.model_dump(mode="json"), "seed": seed}
    training = train(
        step,
        TrainingState({"detector": detector, "average": average, **learning}, optimiser, told),
        steps=config.steps,
        rates=rates,
        clip=[_NORM] * len(shares),
        budget=budget,
        checkpoint=checkpoint,
        after=after,
        progress=progress,
    )
    detector.load_state_dict(average.state_dict())
    detector.eval().requires_grad_(requires_grad=False)
    return training


def _schedule(done: float, warm_up: float) -> float:
    """Share of the highest learning rate at a share of the training."""
    if done < warm_up:
        return max(done / warm_up, _LAST)
    along = (done - warm_up) / (1 - warm_up)
    return _LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * along))


def _groups(
    modules: Sequence[nn.Module], body: nn.Module, config: DetectorTrainingConfig
) -> tuple[list[dict[str, object]], list[float]]:
    """Parameters by their learning rate and whether they decay, and the share of the learning rate of each."""
    groups: list[dict[str, object]] = []
    shares: list[float] = []
    for module in modules:
        share = config.backbone_rate if module is body else 1.0
        parameters = [each for each in module.parameters() if each.requires_grad]
        for flat, decay in ((False, config.weight_decay), (True, 0.0)):
            chosen = [each for each in parameters if (each.ndim < 2) is flat]
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay})
                shares.append(share)
    return groups, shares


def _frozen(body: nn.Module, share: float) -> list[nn.Module]:
    """Freeze the first `share` of the layers of a backbone, which come in the order of their use, and give them."""
    layers = [each for each in body.modules() if next(each.parameters(recurse=False), None) is not None]
    frozen = layers[: int(share * len(layers))]
    for each in frozen:
        each.requires_grad_(requires_grad=False)
    return frozen
