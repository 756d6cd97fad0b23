"""Temporary: synthesizers of a line."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from flawline.progress import bar
from flawline.recipe import Recipe
from flawline.scoring.picture import Pixels
from flawline.synthesis import Sources, Synthesizer, get_synthesizer
from flawline.synthesis.ddpm import train_ddpm
from flawline.synthesis.registry import DDPM, parts_of


def line_synthesizer(
    method: str,
    sources: Sources,
    recipe: Recipe,
    *,
    learned: Callable[[], Sequence[Pixels]],
    seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
) -> Synthesizer:
    """Make a synthesizer for a line; for `ddpm` train a diffusion model on its normal pictures first.

    Args:
        method: one of flawline.synthesis.METHODS.
        sources: normal pictures to take material from.
        recipe: settings of the methods.
        learned: reads the normal pictures that a diffusion model learns, UINT8 [H, W, 3] each.
        seed: of every random choice.
        device: for training and sampling a diffusion model.
        checkpoint: file for the state of that training; None keeps none.

    Raises:
        FlawlineError: an unknown method, or what the method itself refuses.

    """
    textures: Sequence[Pixels] = ()
    if DDPM in parts_of(method):
        pictures = learned()
        with bar() as progress:
            task = progress.add_task("training the diffusion model", total=1.0)
            model = train_ddpm(
                pictures,
                recipe.ddpm,
                seed=seed,
                device=device,
                checkpoint=checkpoint,
                progress=lambda done: progress.update(task, completed=done),
            )
            task = progress.add_task("drawing from the diffusion model", total=1.0)
            textures = model.generate(
                recipe.ddpm.pool,
                seed,
                pictures,
                progress=lambda done: progress.update(task, completed=done),
            )
    return get_synthesizer(
        method,
        sources=sources,
        textures=textures,
        ddpm=recipe.ddpm,
        latent_diffusion=recipe.latent_diffusion,
        simplex=recipe.simplex,
        strokes=recipe.strokes,
    )
