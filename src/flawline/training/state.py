"""The state of a training as tensors of one safetensors file. Needs torch and safetensors, and nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from flawline.errors import ArtefactError
from flawline.files import written_whole

CHECKPOINT_SECONDS = 30
"""Between two writings of a training's state."""


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


class TrainingState:
    """Weights, optimiser and progress in one safetensors file."""

    def __init__(
        self, module: nn.Module, optimiser: torch.optim.Optimizer, identity: Mapping[str, object]
    ) -> None:
        self.module, self.optimiser = module, optimiser
        self.identity = json.dumps(identity, sort_keys=True)

    def save(self, path: Path, step: int, spent: float, losses: Sequence[float]) -> None:
        """Write all of it, atomically."""
        tensors = module_tensors("weight", self.module) | optimiser_tensors(self.optimiser)
        tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
        progress = json.dumps({"step": step, "seconds": spent})
        save_tensors(path, tensors, {"identity": self.identity, "progress": progress})

    def load(self, path: Path) -> tuple[int, float, list[float]]:
        """Fill module and optimiser; gives steps, seconds and losses so far."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as error:
            msg = f"{path} is damaged ({error}); remove it to train anew"
            raise ArtefactError(msg) from error
        if metadata.get("identity") != self.identity:
            differing = _differing(metadata.get("identity"), self.identity)
            msg = (
                f"{path} is a checkpoint of another training (its {differing} differs); "
                "give another file, or remove this one to train anew"
            )
            raise ArtefactError(msg)
        fill_module("weight", self.module, tensors)
        fill_optimiser(self.optimiser, tensors)
        progress = json.loads(metadata["progress"])
        return int(progress["step"]), float(progress["seconds"]), tensors["losses"].tolist()


def _differing(found: str | None, wanted: str) -> str:
    """Name the first field in which two identities differ."""
    if found is None:
        return "identity"
    ours, theirs = json.loads(wanted), json.loads(found)
    return next((key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)), "identity")
