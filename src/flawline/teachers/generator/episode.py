"""Episodes: a few production lines at a time, each with normal pictures and some that hold irregularities."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flawline.teachers.generator.camera import paint, palette, photograph
from flawline.teachers.generator.dice import Dice
from flawline.teachers.generator.formula import Formulas
from flawline.teachers.generator.irregular import plant
from flawline.teachers.generator.structure import Structures


@dataclass(frozen=True)
class Episode:
    """Pictures of L lines.

    `normal`: UINT8 [L, N, S, S, 3]. `tested`: UINT8 [L, Q, S, S, 3], other pictures of the same lines, most with
    irregularities. `irregular`: FP32 [L, Q, S, S], 0 or 1. `relit`: UINT8 [L, Q, S, S, 3], the tested surfaces
    photographed again under another light, where asked for.
    """

    normal: Tensor
    tested: Tensor
    irregular: Tensor
    relit: Tensor | None


def draw_episode(
    dice: Dice, formulas: Formulas, *, normals: int, tested: int, size: int, relit: bool = False
) -> Episode:
    """Draw one line of each formula: `normals` and `tested` pictures of `size` pixels a side, a multiple of 8."""
    lines, each = len(formulas.kind), normals + tested
    # Some lines hardly vary, on others every item differs.
    unrest = dice.log_uniform(lines, low=0.05, high=1.0).repeat_interleave(each)
    field = formulas.repeated(each).jittered(dice, unrest).surfaces(size, dice)
    colours = palette(lines, dice).repeat_interleave(each, dim=0)
    surface = paint(field, colours) + Structures.draw(dice, lines).brightness(each, size, dice)[:, None]
    light = dice.log_uniform(lines, low=0.03, high=1.0)

    surface = surface.unflatten(0, (lines, each))
    clean, queried = surface[:, :normals].flatten(0, 1), surface[:, normals:].flatten(0, 1)
    other = field.unflatten(0, (lines, each))[:, normals:].roll(1, dims=0).flatten(0, 1)
    queried, first = plant(queried, other, dice, share=0.8)
    queried, second = plant(queried, other, dice, share=0.4)

    def shots(surfaces: Tensor, count: int, unrest: Tensor) -> Tensor:
        return photograph(surfaces, dice, unrest.repeat_interleave(count)).unflatten(0, (lines, count))

    return Episode(
        normal=shots(clean, normals, light),
        tested=shots(queried, tested, light),
        irregular=torch.maximum(first, second).unflatten(0, (lines, tested)),
        relit=shots(queried, tested, torch.ones_like(light)) if relit else None,
    )
