"""The state of a training, kept in one safetensors file so that the training can go on."""

import errno
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from flawline.errors import ArtefactError
from flawline.files import written_whole

_OPTIMISER, _LOSSES = "optimiser", "losses"
_DAMAGE = (SafetensorError, OSError, KeyError, AttributeError, TypeError, ValueError, RuntimeError)
"""What reading a file raises that is not what `save` wrote."""
_SHORT = 60
"""Characters of a value that a message still shows; fingerprints are longer."""


class TrainingState:
    """Everything that a training needs to go on: weights, optimiser and how far it is.

    Attributes:
        modules: the modules that training changes, by name.
        optimiser: the optimiser of their parameters.
        step: number of steps done.
        seconds: seconds spent on them, in all runs.
        losses: loss of each step done.

    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimiser: torch.optim.Optimizer,
        identity: Mapping[str, object] | None = None,
    ) -> None:
        """Begin at step 0.

        Args:
            modules: modules that training changes, each by a name without a slash.
            optimiser: optimiser of their parameters.
            identity: what the training depends on, as JSON values: settings, seed, fingerprints of data. A file is
                loaded only into a state of the same identity.

        """
        self.modules, self.optimiser = dict(modules), optimiser
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self._identity = json.dumps(identity or {}, sort_keys=True)

    def save(self, path: Path) -> None:
        """Write all of it, whole or not at all."""
        tensors = {
            f"{name}/{place}": value
            for name, module in self.modules.items()
            for place, value in module.state_dict().items()
        }
        for number, remembered in self.optimiser.state_dict()["state"].items():
            tensors |= {f"{_OPTIMISER}/{number}/{name}": value for name, value in remembered.items()}
        tensors[_LOSSES] = torch.tensor(self.losses, dtype=torch.float64)
        progress = json.dumps({"step": self.step, "seconds": self.seconds})
        save_tensors(path, tensors, {"identity": self._identity, "progress": progress})

    def load(self, path: Path) -> None:
        """Take over the state that `save` wrote.

        Raises:
            ArtefactError: the file is damaged, or of a training with another identity.

        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            found, progress = json.loads(metadata["identity"]), json.loads(metadata["progress"])
            other = difference(found, json.loads(self._identity))
            if not other:
                self._fill(tensors)
                self.step, self.seconds = int(progress["step"]), float(progress["seconds"])
        except _DAMAGE as error:
            msg = f"{path} is damaged ({' '.join(str(error).split())[:200]}); remove it to train anew"
            raise ArtefactError(msg) from error
        if other:
            msg = (
                f"{path} is the checkpoint of another training: {other}; "
                "give another folder, or remove this file to train anew"
            )
            raise ArtefactError(msg)

    def _fill(self, tensors: Mapping[str, Tensor]) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(_below(name, tensors))
        remembered: dict[int, dict[str, Tensor]] = {}
        for place, value in _below(_OPTIMISER, tensors).items():
            number, name = place.split("/")
            remembered.setdefault(int(number), {})[name] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": remembered})
        self.losses = tensors[_LOSSES].tolist()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all; the caller knows what it replaces."""
    with written_whole(path, over=True) as temporary:
        try:
            save_file(
                {name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=metadata
            )
        except SafetensorError as error:  # it names neither the disk nor the rights by a class of their own
            raise OSError(errno.EIO, str(error), str(path)) from error


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Say in a clause in which field two identities, as JSON values, differ; empty where they are the same."""
    # One whose values can be shown tells more: another seed also chooses other pictures.
    return min(_differences(found, wanted), default=(False, ""))[1]


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors whose names begin with `prefix` and a slash, by the rest of their names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _differences(
    found: dict[str, Any], wanted: dict[str, Any], place: str = ""
) -> Iterator[tuple[bool, str]]:
    """Give each field in which two identities differ: whether its values are too long to show, and a clause."""
    for key in sorted({*found, *wanted}):
        one, other = found.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, f"{place}{key}.")
            continue
        was, now = (json.dumps(values[key]) if key in values else "missing" for values in (found, wanted))
        if was == now:
            continue
        long = max(len(was), len(now)) > _SHORT
        yield long, f"it differs in {place}{key}" if long else f"its {place}{key} is {was}, now {now}"
