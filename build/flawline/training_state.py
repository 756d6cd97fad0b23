"""The state of a training as tensors of one safetensors file. Needs torch and safetensors, and nothing else."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flawline.files import written_whole


def module_tensors(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each name below `prefix`."""
    return {f"{prefix}/{name}": value for name, value in module.state_dict().items()}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter, as `optimiser/<number>/<name>`."""
    states = optimiser.state_dict()["state"]
    return {
        f"optimiser/{number}/{name}": value
        for number, state in states.items()
        for name, value in state.items()
    }


def fill_module(prefix: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Undo `module_tensors`. Raises RuntimeError where they do not fit."""
    module.load_state_dict(below(prefix, tensors))


def fill_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo `optimiser_tensors`."""
    states: dict[int, dict[str, Tensor]] = {}
    for place, value in below("optimiser", tensors).items():
        number, name = place.split("/")
        states.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors below `prefix`, without it."""
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all."""
    with written_whole(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=metadata)
