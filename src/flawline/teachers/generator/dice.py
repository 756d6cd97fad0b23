"""Random numbers of one seed on one device."""

import math

import torch
from torch import Tensor


class Dice:
    """Random numbers of one seed on one device; every method returns a fresh tensor there."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._generator = torch.Generator(self.device).manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """FP32 `shape`, even between `low` and `high`."""
        return torch.rand(shape, generator=self._generator, device=self.device) * (high - low) + low

    def log_uniform(self, *shape: int, low: float, high: float) -> Tensor:
        """FP32 `shape`, between `low` and `high`, even in the logarithm."""
        return self.uniform(*shape, low=math.log(low), high=math.log(high)).exp()

    def normal(self, *shape: int) -> Tensor:
        """FP32 `shape`, mean 0, deviation 1."""
        return torch.randn(shape, generator=self._generator, device=self.device)

    def integers(self, *shape: int, high: int) -> Tensor:
        """INT64 `shape`, 0 to `high` - 1."""
        return torch.randint(high, shape, generator=self._generator, device=self.device)

    def chance(self, *shape: int, share: float) -> Tensor:
        """BOOL `shape`, True with probability `share`."""
        return self.uniform(*shape) < share

    def pick(self, weights: Tensor, *shape: int) -> Tensor:
        """INT64 `shape`, the number of an entry of `weights` FP32 [n], drawn in proportion to them."""
        edges = (weights / weights.sum()).cumsum(0)[:-1].to(self.device)
        return torch.bucketize(self.uniform(*shape), edges)
