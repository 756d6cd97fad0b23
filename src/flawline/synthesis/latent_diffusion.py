"""Defects inpainted by a pretrained latent diffusion model from words (papers: ExDD, DIAG); nothing is trained."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, cast

import cv2
import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator

from flawline.errors import RecipeError
from flawline.scoring.picture import Pixels
from flawline.synthesis.base import MIN_PIXELS, Mask, compose, is_grey, resized, too_small, without_colour
from flawline.synthesis.method import Material, MethodConfig
from flawline.synthesis.perlin import perlin_mask
from flawline.synthesis.visibility import until_visible

_MASK_TRIES = 100
_PICTURE_TRIES = 3
"""Inpainting is too slow to insist on a plain defect."""


class LatentDiffusionConfig(MethodConfig):
    """Settings of inpainting by a pretrained latent diffusion model; the defaults are those of ExDD.

    Attributes:
        model: name on the Hugging Face hub, or a local folder, of an inpainting pipeline (SDXL or SD 1.5).
        prompts: prompts, of which one is drawn for each defect; none is empty.
        negative_prompt: what a defect shall not look like.
        strength: how much of what lies under the mask is noised away, above 0 and at most 1.
        guidance: scale of classifier-free guidance, from 1 on.
        steps: number of denoising steps, before `strength` leaves some out; at least 2.
        side: side of the square that pictures are resized to for the model, a multiple of 8.
        padding_mask_crop: pixels around the mask's box that the model works on, which it enlarges to `side`;
            None: it works on the whole picture.
        masks: where masks come from, 'perlin' noise or those of 'labelled' defects of the line.
        device: cpu, cuda, or auto: the device of whoever asks for the defects.
        dtype: type of the weights; 'auto' is float16 on cuda and float32 elsewhere.

    """

    method: Literal["latent_diffusion"] = "latent_diffusion"
    model: str = Field("diffusers/stable-diffusion-xl-1.0-inpainting-0.1", min_length=1)
    prompts: tuple[str, ...] = Field(("white marks on the wall", "copper metal scratches"), min_length=1)
    negative_prompt: str = "smooth, plain, black, dark, shadow"
    strength: float = Field(0.99, gt=0, le=1)
    guidance: float = Field(20.0, ge=1, le=1000)
    steps: int = Field(30, ge=2, le=1000)
    side: int = Field(1024, ge=16, le=4096, multiple_of=8)
    padding_mask_crop: int | None = Field(2, ge=0, le=4096)
    masks: Literal["perlin", "labelled"] = "perlin"
    device: str = "auto"
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"

    @property
    def labelled(self) -> bool:
        """See `MethodConfig`."""
        return self.masks == "labelled"

    @model_validator(mode="after")
    def _fits_together(self) -> "LatentDiffusionConfig":
        if not all(self.prompts):
            msg = "prompts: give at least one, none of them empty"
            raise ValueError(msg)
        if round(self.steps * self.strength) < 1:
            msg = "steps: give more, or a greater strength; no step of denoising is left"
            raise ValueError(msg)
        return self

    def prepare(self, material: Material) -> "LatentDiffusion":
        """See `MethodConfig`; loads the model."""
        config = self.model_copy(update={"device": material.device}) if self.device == "auto" else self
        masks = material.masks() if self.labelled else ()
        return LatentDiffusion(config, material.min_pixels, masks)


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
        return until_visible(self._draw, picture, rng, self.min_pixels, tries=_PICTURE_TRIES)

    def _draw(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        config = self.config
        height, width = picture.shape[:2]
        mask = self._mask(picture, rng)
        # The box of the mask decides what the model sees, so none of it may be lost in resizing.
        small = cv2.resize(mask.astype(np.float32), (config.side, config.side), interpolation=cv2.INTER_AREA)
        square = resized(picture, config.side, config.side)
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
        altered = resized(np.asarray(painted.convert("RGB")), height, width)
        if is_grey(picture):
            altered = without_colour(altered)
        return compose(picture, altered, mask)

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
