"""Synthetic defects for a data set by any method, the models that some methods need included."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from flawline.data.sample import Dataset
from flawline.errors import RecipeError
from flawline.files import written_whole
from flawline.progress import bar
from flawline.synthesis.configs import DDPMConfig, LatentDiffusionConfig, SimplexConfig, StrokesConfig
from flawline.synthesis.plain import Mask, Pixels
from flawline.synthesis.registry import (
    DDPM,
    JOIN,
    LATENT_DIFFUSION,
    SIMPLEX,
    STROKES,
    get_synthesizer,
    parts_of,
)
from flawline.synthesis.synthesize import check_request, claim, drawing_from, write_synthetic


def synthesize_line(
    dataset: Dataset,
    method: str,
    count: int,
    out: Path,
    seed: int = 0,
    *,
    ddpm: DDPMConfig | None = None,
    latent_diffusion: LatentDiffusionConfig | None = None,
    simplex: SimplexConfig | None = None,
    strokes: StrokesConfig | None = None,
    device: str = "cpu",
    budget: float | None = None,
) -> Path:
    """Do as `write_synthetic`, but train the diffusion model or load the pipeline that the method needs first.

    For `ddpm` the state of training, the model and the pictures it generates are kept in `out/ddpm`: an interrupted
    run goes on where it ended, and a finished one is not trained again.

    Args:
        dataset: its normal training pictures get the defects; masks may come from its labelled ones.
        method: one of flawline.synthesis.METHODS.
        count: see `write_synthetic`.
        out: see `write_synthetic`.
        seed: see `write_synthetic`.
        ddpm: settings of that method.
        latent_diffusion: settings of that method.
        simplex: settings of that method.
        strokes: settings of that method, alone and within `mixed`.
        device: cpu or cuda, for both.
        budget: seconds for training, for `ddpm` only.

    Returns:
        The folder of the defect pictures.

    Raises:
        RecipeError: as `write_synthetic`, or a budget for a method that does not train.
        DataError: as `write_synthetic` and `train_ddpm`.

    """
    samples = dataset.train_normals
    if method == DDPM:
        check_request(samples, count, seed)
        config = ddpm or DDPMConfig()
        settings: dict[str, Any] = {**asdict(config), "budget": budget}

        def begin() -> None:  # what cannot be learnt is refused before anything is written
            claim(samples, method, out, seed, settings)

        pictures = [sample.read_image() for sample in samples]
        textures = _textures(pictures, config, out / "ddpm", seed, device, budget, begin)
        synthesizer = get_synthesizer(method, textures=textures, ddpm=config)
        return write_synthetic(samples, synthesizer, count, out, seed, settings)
    if budget is not None:
        msg = f"synthesis method '{method}' trains nothing and takes no budget; leave it out, or take 'ddpm'"
        raise RecipeError(msg)
    if method == LATENT_DIFFUSION:
        check_request(samples, count, seed)
        painting = latent_diffusion or LatentDiffusionConfig()
        masks = _labelled_masks(dataset) if painting.masks == "labelled" else []
        settings = {key: value for key, value in asdict(painting).items() if key != "device"}
        if masks:
            settings["masks_sha256"] = _digest(masks)
        synthesizer = get_synthesizer(method, latent_diffusion=replace(painting, device=device), masks=masks)
        return write_synthetic(samples, synthesizer, count, out, seed, settings)
    check_request(samples, count, seed)
    noise, drawn = simplex or SimplexConfig(), strokes or StrokesConfig()
    synthesizer = get_synthesizer(method, drawing_from(samples), simplex=noise, strokes=drawn)
    settings = {"joined": method} if JOIN in method else {}  # all of these write as `mixed`
    for name, values in ((SIMPLEX, asdict(noise)), (STROKES, asdict(drawn))):
        settings |= values if name in parts_of(method) else {}
    return write_synthetic(samples, synthesizer, count, out, seed, settings or None)


def _textures(
    pictures: Sequence[Pixels],
    config: DDPMConfig,
    folder: Path,
    seed: int,
    device: str,
    budget: float | None,
    begin: Callable[[], None],
) -> Sequence[Pixels]:
    """Train, save the model, generate: UINT8 [side, side, 3] each; taken from `folder` where already there."""
    from flawline.synthesis.ddpm import train_ddpm
    from flawline.synthesis.ddpm_data import Crops

    Crops(pictures, config)
    begin()
    pool = folder / "pool.safetensors"
    if pool.exists():
        try:
            return list(load_file(pool)["pictures"])
        except (OSError, KeyError, SafetensorError):
            pool.unlink()  # the model is there to generate them again
    with bar() as shown:
        task = shown.add_task("Training the diffusion model", total=1.0)
        model = train_ddpm(
            pictures,
            config,
            seed=seed,
            device=device,
            checkpoint=folder / "checkpoint.safetensors",
            budget=budget,
            progress=lambda done: shown.update(task, completed=done),
        )
        model.save(folder)
        task = shown.add_task("Generating pictures", total=1.0)
        textures = model.generate(
            config.pool, seed, pictures, progress=lambda done: shown.update(task, completed=done)
        )
    with written_whole(pool) as temporary:
        save_file({"pictures": np.stack(textures)}, temporary)
    return textures


def _labelled_masks(dataset: Dataset) -> list[Mask]:
    """Masks of the labelled defects of the training split that are not empty."""
    masks = []
    for sample in dataset.train_defects:
        if sample.mask is not None:
            mask = sample.read_mask(*sample.read_image().shape[:2])
            if mask.any():
                masks.append(mask)
    return masks


def _digest(masks: Sequence[Mask]) -> str:
    digest = hashlib.sha256()
    for mask in masks:
        digest.update(str(mask.shape).encode())
        digest.update(np.packbits(mask).tobytes())
    return digest.hexdigest()
