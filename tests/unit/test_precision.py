"""What a training computes in BF16, and what it does not."""

import pytest
import torch
from torch import nn

from flawline.training import mixed_precision

CPU = torch.device("cpu")
DENSE, DEPTHWISE = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
MAPS = torch.rand(2, 8, 16, 16)


def _units(patch: pytest.MonkeyPatch, *, there: bool) -> None:
    patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: there)


def test_dense_convolutions_are_in_bf16_and_depthwise_ones_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    _units(monkeypatch, there=True)
    with mixed_precision(CPU):
        dense, depthwise = DENSE(MAPS), DEPTHWISE(MAPS)
        given_half = DEPTHWISE(MAPS.to(torch.bfloat16))
    assert dense.dtype == torch.bfloat16
    assert depthwise.dtype == given_half.dtype == torch.float32
    torch.testing.assert_close(depthwise, DEPTHWISE(MAPS), rtol=0, atol=0)
    torch.testing.assert_close(dense.float(), DENSE(MAPS), rtol=0.02, atol=0.02)


def test_both_kinds_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    _units(monkeypatch, there=True)
    network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 1, 1))
    with mixed_precision(CPU):
        loss = network(MAPS).float().square().mean()
    loss.backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.dtype == torch.float32
        assert weight.grad.isfinite().all()


def test_without_matrix_units_all_is_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    _units(monkeypatch, there=False)
    with mixed_precision(CPU):
        assert DENSE(MAPS).dtype == DEPTHWISE(MAPS).dtype == torch.float32


def test_nothing_of_it_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    _units(monkeypatch, there=True)
    with mixed_precision(CPU):
        pass
    assert DENSE(MAPS).dtype == torch.float32
