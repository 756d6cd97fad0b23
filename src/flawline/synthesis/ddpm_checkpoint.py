"""The state of training a diffusion model, in one safetensors file."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from flawline.errors import DataError
from flawline.scoring.picture import Pixels
from flawline.synthesis.ddpm_blend import DDPMConfig
from flawline.training.state import (
    fill_module,
    fill_optimiser,
    module_tensors,
    optimiser_tensors,
    save_tensors,
)

_TRAINING = (
    "side",
    "whole",
    "patch",
    "channels",
    "blocks",
    "steps",
    "batch",
    "learning_rate",
    "ema",
    "timesteps",
)
"""Settings that make the weights; the others only say how they are used."""


def identity(pictures: Sequence[Pixels], config: DDPMConfig, seed: int) -> dict[str, Any]:
    """What a checkpoint belongs to, in the form that JSON gives back."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(str(picture.shape).encode())
        digest.update(np.ascontiguousarray(picture).data)
    settings = {name: value for name, value in config.model_dump().items() if name in _TRAINING}
    return cast(
        dict[str, Any], json.loads(json.dumps({**settings, "seed": seed, "pictures": digest.hexdigest()}))
    )


class Checkpoint:
    """Weights, their running mean, optimiser state and progress in one safetensors file, or nowhere."""

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        self.path, self.identity = path, identity

    def save(
        self, network: nn.Module, mean: nn.Module, optimiser: torch.optim.Optimizer, step: int, seconds: float
    ) -> None:
        """Write all of it, atomically."""
        if self.path is None:
            return
        tensors = module_tensors("weight", network) | module_tensors("mean", mean)
        facts = {"identity": self.identity, "step": step, "seconds": seconds}
        save_tensors(self.path, tensors | optimiser_tensors(optimiser), {"progress": json.dumps(facts)})

    def load(
        self, network: nn.Module, mean: nn.Module, optimiser: torch.optim.Optimizer
    ) -> tuple[int, float]:
        """Fill all three where there is a checkpoint; gives the steps done and the seconds spent."""
        if self.path is None or not self.path.exists():
            return 0, 0.0
        try:
            with safe_open(self.path, framework="pt") as file:
                facts = json.loads(file.metadata()["progress"])
                self._check(facts["identity"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            fill_module("weight", network, tensors)
            fill_module("mean", mean, tensors)
            fill_optimiser(optimiser, tensors)
            return int(facts["step"]), float(facts["seconds"])
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            msg = f"{self.path} is damaged ({' '.join(str(error).split())[:200]}); remove it and train again"
            raise DataError(msg) from error

    def _check(self, found: dict[str, Any]) -> None:
        differing = [key for key, value in self.identity.items() if found[key] != value]
        if differing:
            key = differing[0]
            told = "" if key == "pictures" else f" ({found[key]}, now {self.identity[key]})"
            msg = (
                f"{self.path} is the checkpoint of a diffusion model of another {key}{told}; "
                "give another folder, or remove it to train again"
            )
            raise DataError(msg)
