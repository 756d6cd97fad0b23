"""Train the segmenter on pairs of clean and corrupted crops."""

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from flawline.detectors.segmenter.config import TuningConfig
from flawline.detectors.segmenter.model import Segmenter, groups, twins
from flawline.detectors.students.crops import Crops
from flawline.training import Training, TrainingState, follow, freeze_statistics, mixed_precision, train

_WARM_UP = 0.02
"""Share of the training in which the learning rate rises."""
_FREEZE_AT = 0.8
"""Share of the training after which all batch normalisation keeps its statistics, as it will in use."""
_LAST = 0.01
"""Learning rate at the end, as a share of the highest."""


def tune(
    network: Segmenter,
    crops: Crops,
    config: TuningConfig,
    *,
    budget: float | None = None,
    checkpoint: Path | None = None,
    identity: Mapping[str, object] | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Training:
    """Train `network` in place, and leave the running average of its weights in it, frozen, in evaluation mode.

    Args:
        network: on the device of the crops.
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
    network.requires_grad_(requires_grad=True)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    parameters, shares = groups(network, config.backbone_rate)
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)

    def step(number: int, done: float) -> Tensor:
        network.train()
        # The backbone keeps the statistics of its first training: those of a few pictures are too rough.
        freeze_statistics(network if done >= _FREEZE_AT else network.body)
        batch = crops.draw(number, config.pairs)
        pixels, mask = twins(batch.clean, batch.corrupted, batch.mask)
        with mixed_precision(pixels.device):
            return network.loss(pixels.contiguous(memory_format=torch.channels_last), mask)

    def rates(_number: int, done: float) -> list[float]:
        risen = min(1.0, max(done / _WARM_UP, _LAST))
        fallen = _LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * done))
        return [config.learning_rate * share * risen * fallen for share in shares]

    def after(done: int) -> None:
        follow(average, network, done, config.average)

    told = {**(identity or {}), "training": config.model_dump(mode="json")}
    training = train(
        step,
        TrainingState({"network": network, "average": average}, optimiser, told),
        steps=config.steps,
        rates=rates,
        clip=(5.0, 5.0),
        budget=budget,
        checkpoint=checkpoint,
        after=after,
        progress=progress,
    )
    network.load_state_dict(average.state_dict())
    network.eval().requires_grad_(requires_grad=False)
    return training
