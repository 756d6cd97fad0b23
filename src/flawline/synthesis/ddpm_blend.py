"""What a widened diffusion makes of normal pictures, put into Perlin regions (papers: DDPM + student, RealNet)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flawline.errors import RecipeError
from flawline.files import check_output, kept_if_possible, written_whole
from flawline.progress import bar
from flawline.scoring.picture import Pixels
from flawline.synthesis.base import (
    MIN_PIXELS,
    Mask,
    digest,
    fill,
    is_grey,
    resized,
    to_pixels,
)
from flawline.synthesis.cutpaste import patch_size
from flawline.synthesis.foreground import foreground
from flawline.synthesis.method import Material, MethodConfig
from flawline.synthesis.perlin import perlin_line, perlin_mask
from flawline.synthesis.visibility import until_visible
from flawline.training import MOST_STEPS, Training

_FOLDER = "ddpm"
_CHECKPOINT = "checkpoint.safetensors"
_BLENDING = {"opacity", "foreground", "regions", "lines", "widest"}
"""Settings that leave what is generated as it is."""

Generated = Sequence[Pixels | NDArray[np.int16]]
"""Pictures, UINT8 [h, w, 3] each, or departures from normal ones in grey levels, INT16 [h, w, 3] each."""


class DDPMConfig(MethodConfig):
    """Settings of the denoising diffusion model of a line, and of the defects made with it.

    Attributes:
        side: side of the generated pictures in pixels, a multiple of patch * 2 ** (levels - 1).
        whole: learn whole pictures resized to `side`, for objects; otherwise crops of `side` as they are.
        patch: side of the squares of pixels that the network sees as one place: 2 costs a quarter of 1.
        channels: channels of each level of the network, multiples of 8; every level but the first halves the side.
        blocks: number of residual blocks of a level.
        steps: number of training steps, at most; a budget may end training sooner.
        batch: number of pictures of a training step, and generated at a time.
        learning_rate: learning rate at the start; it falls to 0 along a cosine.
        ema: decay of the running mean of the weights, which is what generates, from 0 to below 1.
        timesteps: T, number of noise levels of the diffusion; its variances grow linearly from 1e-4 to 0.02.
        sampling_steps: number of noise levels that generating visits, evenly spread over all.
        widen: range of s, by which the variance of every reverse step is widened: (1 + s) sigma_t^2.
        partial: a fixed noise level t, to which normal pictures are noised, to be denoised again; None, for
            generated pictures only, starts from noise.
        content: what is put into regions: 'departures', what widening changes of a picture, or 'pictures' (papers).
        pool: number of pictures or departures that are generated for a line.
        opacity: range of d, the share of what was generated inside the mask.
        foreground: keep defects on the object, where one can be told from its background.
        regions: where defects are, turned 'perlin' noise or 'rectangles'.
        lines: share of the Perlin regions that are thin lines, at which the noise has one level (papers: none).
        widest: greatest width of these lines in pixels, at a side of 256.

    """

    method: Literal["ddpm"] = "ddpm"
    side: int = 64
    whole: bool = False
    patch: int = Field(2, ge=1, le=64)
    channels: tuple[Annotated[int, Field(ge=8, le=4096)], ...] = Field(
        (16, 32, 64), min_length=2, max_length=8
    )
    blocks: int = Field(1, ge=1, le=16)
    steps: int = Field(2000, ge=1, le=MOST_STEPS)
    batch: int = Field(8, ge=1, le=1024)
    learning_rate: float = Field(2e-3, gt=0, le=1)
    ema: float = Field(0.995, ge=0, lt=1)
    timesteps: int = Field(1000, ge=2, le=10_000)
    sampling_steps: int = Field(20, ge=2, le=10_000)
    widen: tuple[float, float] = (0.02, 0.3)
    partial: int | None = Field(400, ge=1, le=10_000)
    content: Literal["departures", "pictures"] = "departures"
    pool: int = Field(64, ge=1, le=100_000)
    opacity: tuple[float, float] = (0.5, 1.0)
    foreground: bool = True
    regions: Literal["perlin", "rectangles"] = "perlin"
    lines: float = Field(0.7, ge=0, le=1)
    widest: float = Field(6.0, ge=1, le=64)

    @property
    def coarsest(self) -> int:
        """Pixels along one place of the network's last level."""
        return self.patch * 2 ** (len(self.channels) - 1)

    @property
    def trainings(self) -> int:
        """See `MethodConfig`."""
        return 1

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_artefacts(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Earlier ones name no content: they blended pictures that started from noise."""
        if "content" not in content and content.get("partial", 0) is None:
            return {"content": "pictures", "lines": 0.0, **content}
        return content

    @model_validator(mode="after")
    def _fits_together(self) -> "DDPMConfig":
        unit = self.coarsest
        for holds, words in (
            (all(c > 0 and c % 8 == 0 for c in self.channels), "channels: give multiples of 8"),
            (
                self.side >= 2 * unit and self.side % unit == 0,
                f"side: give a multiple of {unit}, at least {2 * unit}, for this patch and so many levels",
            ),
            (self.sampling_steps <= self.timesteps, "sampling_steps: give 2 to timesteps"),
            (
                0 <= self.widen[0] <= self.widen[1] <= 10,
                "widen: give a range within 0 to 10, lower end first",
            ),
            (
                self.partial is None or self.partial < self.timesteps,
                "partial: give null, or a noise level from 1 to timesteps - 1",
            ),
            (
                self.content == "pictures" or self.partial is not None,
                "partial: departures start from normal pictures; give a noise level from 1 to timesteps - 1",
            ),
            (
                self.content == "pictures" or self.widen[1] > 0,
                "widen: nothing departs where nothing is widened; give a range that ends above 0",
            ),
            (
                0 <= self.opacity[0] <= self.opacity[1] <= 1 and self.opacity[1] > 0,
                "opacity: give a range within 0 to 1, lower end first, that ends above 0",
            ),
        ):
            if not holds:
                raise ValueError(words)
        return self

    def prepare(self, material: Material) -> "DDPMBlend":
        """See `MethodConfig`; trains the model, or goes on with it, and generates the pool.

        In `material.checkpoint` the folder `ddpm` keeps the state of training, the model and the pool.

        Raises:
            FlawlineError: as `flawline.synthesis.ddpm.train_ddpm`.

        """
        return DDPMBlend(generated(self, material), self, material.min_pixels)


def generated(config: DDPMConfig, material: Material) -> Generated:
    """Train, save the model, generate: [side, side, 3] each; read from the checkpoint's folder where there.

    Raises:
        FlawlineError: as `flawline.synthesis.ddpm.train_ddpm`.

    """
    from flawline.synthesis.ddpm import train_ddpm  # here, because diffusers takes seconds to import

    pictures, seconds = material.learned(), material.budget.share()
    made_from = {
        "settings": config.model_dump(mode="json", exclude=_BLENDING),
        "seed": material.seed,
        "budget": seconds,
        "pictures": digest(pictures),
    }
    identity = json.dumps(made_from, sort_keys=True)
    folder = material.checkpoint and material.checkpoint / _FOLDER
    pool = folder and folder / "pool.safetensors"
    if folder is not None and not (folder / _CHECKPOINT).exists():  # what lies there is of others
        for name in ("model.safetensors", "config.json", "pool.safetensors"):
            check_output(folder / name, "--checkpoint or --out")
    if pool is not None and pool.exists():
        try:
            with safe_open(pool, framework="numpy") as file:
                found = file.metadata()
                if found["made_from"] == identity:
                    material.budget.spend(Training(**json.loads(found["training"])))
                    return list(file.get_tensor(config.content))
        except (OSError, KeyError, TypeError, SafetensorError):
            pass  # the model is there to generate them again
    with bar() as shown:
        task = shown.add_task("training the diffusion model", total=1.0)
        model = train_ddpm(
            pictures,
            config,
            seed=material.seed,
            device=material.device,
            checkpoint=folder and folder / _CHECKPOINT,
            budget=seconds,
            progress=lambda done: shown.update(task, completed=done),
        )
        material.budget.spend(model.training)
        task = shown.add_task("drawing from the diffusion model", total=1.0)
        draw = model.departures if config.content == "departures" else model.generate
        textures = draw(
            config.pool, material.seed, pictures, progress=lambda done: shown.update(task, completed=done)
        )
    if folder is not None and pool is not None:
        with kept_if_possible(pool), written_whole(pool, over=True) as temporary:
            model.save(folder)
            training = cast(Training, model.training)  # it was trained here
            kept = replace(training, seconds_before=training.seconds, losses=())
            told = {"made_from": identity, "training": json.dumps(asdict(kept))}
            save_file({config.content: np.stack(textures)}, temporary, told)
    return textures


class DDPMBlend:
    """Puts what was generated into a region M of the normal picture, with d ~ U(0.5, 1) by default.

    - Of departures: x_syn = x + M d (x_wide - x_plain). The place keeps its own grain, light and sharpness, so that
      nothing is to be learnt but the departure.
    - Of pictures (papers): x_syn = (1-M) x + M (d x_gen + (1-d) x), with x_gen brought to the brightness of x.

    M is a turned Perlin region, a thin line of Perlin noise, or a rectangle, times the object where one can be told
    from its ground. With `whole` what was generated shows all of an item and is resized to the normal picture;
    otherwise it is a crop, of which a random place is taken, and which its mirror image continues where it ends.

    Args:
        textures: what was generated, at least one, [h, w, 3] of any sizes: INT16 where `config.content` are
            departures, UINT8 where they are pictures.
        config: settings.
        min_pixels: fewest pixels of a defect.

    Raises:
        RecipeError: there are no textures.

    """

    def __init__(self, textures: Generated, config: DDPMConfig, min_pixels: int = MIN_PIXELS) -> None:
        if not len(textures):
            msg = "there is nothing generated to put into pictures; make some with DDPM.departures or DDPM.generate"
            raise RecipeError(msg)
        self.textures, self.config, self.min_pixels = textures, config, min_pixels

    def __call__(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """See `Synthesizer`."""
        return until_visible(self._draw, picture, rng, self.min_pixels)

    def _draw(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        mask = self._region(picture.shape[0], picture.shape[1], rng)
        if self.config.foreground:
            mask &= foreground(picture)
        if not mask.any():
            return picture, mask
        texture = self.textures[rng.integers(len(self.textures))]
        y, x = np.nonzero(mask)
        if self.config.whole:
            drawn = resized(texture, picture.shape[0], picture.shape[1])[y, x]
        else:
            drawn = texture[_mirrored(y, texture.shape[0], rng), _mirrored(x, texture.shape[1], rng)]
        change = drawn.astype(np.float32)
        if is_grey(picture):
            change = np.repeat(change.mean(axis=1, keepdims=True).round(), 3, axis=1)
        opacity = np.float32(rng.uniform(*self.config.opacity))
        before = picture[y, x].astype(np.float32)
        if self.config.content == "pictures":
            gain = picture.mean() / max(float(texture.mean()), 1.0)
            change = np.minimum(change * np.float32(gain), 255) - before
        return fill(picture, to_pixels(before + opacity * change), mask)

    def _region(self, height: int, width: int, rng: np.random.Generator) -> Mask:
        if self.config.regions == "rectangles":
            return rectangle_mask(height, width, rng)
        if rng.random() < self.config.lines:
            return perlin_line(height, width, self.config.widest, rng)
        return perlin_mask(height, width, rng)


def rectangle_mask(height: int, width: int, rng: np.random.Generator) -> Mask:
    """Draw an upright rectangle of the size of a patch of CutPaste: BOOL [height, width]."""
    across, along = patch_size(height, width, rng)
    top, left = rng.integers(height - along + 1), rng.integers(width - across + 1)
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[top : top + along, left : left + across] = True
    return mask


def _mirrored(places: NDArray[np.intp], length: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Place a span of pixels at random on an axis of `length`, mirrored over and over where it is longer."""
    span = int(places.max() - places.min()) + 1
    start = int(rng.integers(length - span + 1)) if span < length else int(rng.integers(2 * length))
    folded = (places - places.min() + start) % (2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)
