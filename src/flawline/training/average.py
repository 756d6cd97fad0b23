"""The running average of weights, which is steadier than the weights of any one step."""

import torch
from torch import nn


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, done: int, keep: float) -> None:
    """Move the running average of all weights and statistics towards those of a module.

    Args:
        average: module of the same form.
        module: what is trained.
        done: number of steps done, at least 1; early in training less is kept, since the first weights are worth
            nothing.
        keep: share that the average keeps at a step, late in training, in [0, 1).

    """
    kept = min(keep, (1 + done) / (10 + done))
    for mine, other in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(other, 1 - kept)
        else:
            mine.copy_(other)
