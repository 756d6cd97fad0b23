"""Defects inpainted by a pretrained latent diffusion model from words (papers: ExDD, DIAG); nothing is trained."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import cv2
import numpy as np
import torch
from PIL import Image

from flawline.errors import RecipeError
from flawline.synthesis.configs import LatentDiffusionConfig
from flawline.synthesis.perlin import perlin_mask
from flawline.synthesis.plain import (
    MIN_PIXELS,
    Mask,
    Pixels,
    compose,
    is_grey,
    too_small,
    until_seen,
    without_colour,
)

_MASK_TRIES = 100
_PICTURE_TRIES = 3
"""Inpainting is too slow to insist on a plain defect."""


class Inpainting(Protocol):
    """What is called of a diffusers inpainting pipeline."""

    def __call__(self, **arguments: Any) -> Any:  # noqa: ANN401 - every pipeline has its own
        """Give an object with `images`, a list of PIL pictures."""
        ...


class LatentDiffusion:
    """Inpaints a mask of a normal picture with one of the prompts.

    Picture and mask are resized to the model's square, whatever their aspect, and back, as ExDD does; outside the
    mask the picture stays as it was. The model is loaded when the object is made.

    Args:
        config: settings.
        min_pixels: fewest pixels of a defect.
        masks: of labelled defects, BOOL [h, w] of any sizes, each with a True; needed with `masks: labelled`.
        pipeline: an inpainting pipeline already loaded; by default that of `config.model`.

    Raises:
        RecipeError: the model cannot be loaded, the device is not there, or there are no masks.

    """

    name = "latent_diffusion"

    def __init__(
        self,
        config: LatentDiffusionConfig,
        min_pixels: int = MIN_PIXELS,
        masks: Sequence[Mask] = (),
        pipeline: Inpainting | None = None,
    ) -> None:
        if config.masks == "labelled" and not len(masks):
            msg = (
                "latent diffusion is to take its masks from labelled defects, and the training split has none "
                "with a mask; label some, or set masks: perlin"
            )
            raise RecipeError(msg)
        self.config, self.min_pixels, self.masks = config, min_pixels, masks
        self.pipeline = load_pipeline(config) if pipeline is None else pipeline

    def __call__(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """See `Synthesizer`; takes seconds on a GPU."""
        return until_seen(self._draw, picture, rng, self.min_pixels, tries=_PICTURE_TRIES)

    def _draw(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        config = self.config
        height, width = picture.shape[:2]
        mask = self._mask(picture, rng)
        # The box of the mask decides what the model sees, so none of it may be lost in resizing.
        small = cv2.resize(mask.astype(np.float32), (config.side, config.side), interpolation=cv2.INTER_AREA)
        square = cv2.resize(
            picture,
            (config.side, config.side),
            interpolation=cv2.INTER_AREA if config.side < max(height, width) else cv2.INTER_CUBIC,
        )
        painted = self.pipeline(
            prompt=config.prompts[rng.integers(len(config.prompts))],
            negative_prompt=config.negative_prompt,
            image=Image.fromarray(square),
            mask_image=Image.fromarray(np.where(small > 0, 255, 0).astype(np.uint8)),
            height=config.side,
            width=config.side,
            strength=config.strength,
            guidance_scale=config.guidance,
            num_inference_steps=config.steps,
            padding_mask_crop=config.padding_mask_crop,
            generator=torch.Generator().manual_seed(int(rng.integers(2**63))),
        ).images[0]
        altered = cv2.resize(
            np.asarray(painted.convert("RGB")),
            (width, height),
            interpolation=cv2.INTER_AREA if config.side > max(height, width) else cv2.INTER_CUBIC,
        )
        if is_grey(picture):
            altered = without_colour(cast(Pixels, altered))
        return compose(picture, cast(Pixels, altered), mask)

    def _mask(self, picture: Pixels, rng: np.random.Generator) -> Mask:
        """Draw a mask of at least the fewest pixels: BOOL [H, W]."""
        height, width = picture.shape[:2]
        for _ in range(_MASK_TRIES):
            if self.config.masks == "perlin":
                mask = perlin_mask(height, width, rng)
            else:
                chosen = self.masks[rng.integers(len(self.masks))].astype(np.uint8)
                mask = cv2.resize(chosen, (width, height), interpolation=cv2.INTER_NEAREST) > 0
            if self.min_pixels <= np.count_nonzero(mask) < mask.size:
                return mask
        raise too_small(picture, self.min_pixels)


def load_pipeline(config: LatentDiffusionConfig) -> Inpainting:
    """Load an inpainting pipeline from safetensors files alone, which cannot run code.

    Raises:
        RecipeError: it is not there, cannot be downloaded or is damaged, or the device is not there.

    """
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    name = ("float16" if device.startswith("cuda") else "float32") if config.dtype == "auto" else config.dtype
    try:
        from diffusers import AutoPipelineForInpainting

        pipeline = AutoPipelineForInpainting.from_pretrained(
            config.model, dtype=getattr(torch, name), use_safetensors=True
        )
    except Exception as error:  # the hub, its files and every part of a pipeline fail in ways of their own
        reason = " ".join(str(error).split())[:200]
        msg = (
            f"the inpainting model {config.model!r} cannot be loaded ({reason}); give the folder of an SDXL or "
            "SD 1.5 inpainting pipeline with safetensors weights, or a name on the Hugging Face hub with a network"
        )
        raise RecipeError(msg) from error
    try:
        pipeline.to(device)
    except (RuntimeError, AssertionError) as error:
        msg = f"the inpainting model cannot be moved to device {config.device!r} ({error}); give cpu or cuda"
        raise RecipeError(msg) from error
    pipeline.set_progress_bar_config(disable=True)
    return cast(Inpainting, pipeline)
