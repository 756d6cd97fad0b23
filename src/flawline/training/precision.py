"""In which precision a step of a training is computed."""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def mixed_precision(device: torch.device) -> Generator[None]:
    """Compute in BF16 what the device computes faster so: on GPUs, and on CPUs with AMX; elsewhere all stays FP32.

    On CPUs convolutions with groups stay FP32: the gradients of depthwise ones take longer in BF16.
    """
    on_cpu = device.type == "cpu"
    # Without matrix units for it, BF16 is slower than FP32 on CPUs.
    enabled = not on_cpu or torch.cpu._is_amx_tile_supported()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
        if enabled and on_cpu:
            with _GroupsInFull():
                yield
        else:
            yield


class _GroupsInFull(TorchFunctionMode):
    """Computes convolutions with groups outside autocast, whichever network calls them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever torch's function gives
        given = kwargs or {}
        # torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
        groups = given.get("groups", args[6] if len(args) > 6 else 1) if func is torch.conv2d else 1
        if groups == 1:
            return func(*args, **given)
        with torch.autocast("cpu", enabled=False):
            return func(args[0].float(), *args[1:], **given)
