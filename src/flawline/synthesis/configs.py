"""Settings of the methods that have some: simplex noise, strokes, and those that train or load a diffusion model.

Plain dataclasses, because training must also run where pydantic is not installed; inside a recipe pydantic checks
their types, and turns what `__post_init__` refuses into an error that names the field.
"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

from flawline.synthesis.simplex import FREQUENCY, OCTAVES, PERSISTENCE, STRENGTH

WIDEST = 4.0
"""Pixels that a crack is wide at most, in a picture of 256, unless a line is known to have wider ones."""


def _check(*rules: tuple[bool, str]) -> None:
    """Raise ValueError with the text of the first rule that does not hold."""
    for holds, words in rules:
        if not holds:
            raise ValueError(words)


def _is_range(pair: tuple[float, float], low: float, high: float) -> bool:
    return len(pair) == 2 and low <= pair[0] <= pair[1] <= high


@dataclass(frozen=True)
class SimplexConfig:
    """Settings of defects of fractal simplex noise; the defaults are those of SACD.

    Raises:
        ValueError: a setting out of range, which it names.

    Attributes:
        octaves: sizes of noise in the sum, 1 to 8.
        persistence: weight of each size relative to the one before, above 0 and at most 1.
        frequency: pixels of a cell of the first size, at a side of 256; at least 1.
        strength: lambda, by which the noise is scaled, above 0 and at most 1.
        blended: let the noise take the place of a share lambda of the picture, instead of adding it.

    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    octaves: int = OCTAVES
    persistence: float = PERSISTENCE
    frequency: float = FREQUENCY
    strength: float = STRENGTH
    blended: bool = False

    def __post_init__(self) -> None:
        _check(
            (1 <= self.octaves <= 8, "octaves: give 1 to 8"),
            (0 < self.persistence <= 1, "persistence: give more than 0, at most 1"),
            (self.frequency >= 1, "frequency: give at least 1"),
            (0 < self.strength <= 1, "strength: give more than 0, at most 1"),
        )


@dataclass(frozen=True)
class StrokesConfig:
    """How often each shape of `strokes` is drawn, as shares of their sum, and how wide its cracks are.

    Whoever knows what the defects of a line look like can say so here: a student that learns nothing but cracks
    does not call a blotch defective, but one that learns none but thin cracks lets wide ones pass.

    Raises:
        ValueError: a negative share, or none above 0, or `widest` out of range.

    Attributes:
        crack: share of wandering lines that taper.
        scratch: share of nearly straight, thin lines.
        pits: share of groups of small spots.
        stain: share of large, soft regions.
        widest: pixels that a crack is wide at most, 1 to 32; more in pictures larger than 256, in proportion, but
            not in the crops of a larger square that students learn from.

    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    crack: float = 0.4
    scratch: float = 0.2
    pits: float = 0.25
    stain: float = 0.15
    widest: float = WIDEST

    def __post_init__(self) -> None:
        shares = (self.crack, self.scratch, self.pits, self.stain)
        _check(
            (min(shares) >= 0 and 0 < sum(shares) < inf, "strokes: give shares of 0 or more, one above 0"),
            (1 <= self.widest <= 32, "widest: give 1 to 32"),
        )


@dataclass(frozen=True)
class DDPMConfig:
    """Settings of the denoising diffusion model of a line, and of the defects made with it.

    Raises:
        ValueError: a setting out of range, which it names.

    Attributes:
        side: of the generated pictures in pixels, a multiple of patch * 2 ** (levels - 1).
        whole: learn whole pictures resized to `side`, for objects; otherwise crops of `side` as they are.
        patch: side of the squares of pixels that the network sees as one place: 2 costs a quarter of 1.
        channels: of the network's levels, each a multiple of 8; every level but the first halves the side.
        blocks: residual blocks of a level.
        steps: of training, at most; a budget may end it sooner.
        batch: pictures of a training step, and generated at a time.
        learning_rate: at the start; it falls to 0 along a cosine.
        ema: decay of the running mean of the weights, which is what generates.
        timesteps: T, noise levels of the diffusion; its variances grow linearly from 1e-4 to 0.02.
        sampling_steps: noise levels that generating visits, evenly spread over all.
        widen: range of s, by which the variance of every reverse step is widened: (1 + s) sigma_t^2.
        partial: None, or a fixed noise level t: pictures are then normal ones noised to t and denoised.
        pool: how many pictures are generated for a line.
        opacity: range of d, the share of the generated picture inside the mask.
        foreground: keep defects on the object, where one can be told from its background.
        regions: where the generated picture is blended in: turned 'perlin' noise, or 'rectangles'.

    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    side: int = 64
    whole: bool = False
    patch: int = 2
    channels: tuple[int, ...] = (16, 32, 64)
    blocks: int = 1
    steps: int = 2000
    batch: int = 8
    learning_rate: float = 2e-3
    ema: float = 0.995
    timesteps: int = 1000
    sampling_steps: int = 20
    widen: tuple[float, float] = (0.1, 0.2)
    partial: int | None = None
    pool: int = 64
    opacity: tuple[float, float] = (0.5, 1.0)
    foreground: bool = True
    regions: Literal["perlin", "rectangles"] = "perlin"

    @property
    def coarsest(self) -> int:
        """Pixels along one place of the network's last level."""
        return self.patch * 2 ** (len(self.channels) - 1)

    def __post_init__(self) -> None:
        halvings = max(self.patch, 1) * 2 ** max(len(self.channels) - 1, 0)
        _check(
            (self.patch >= 1, "patch: give at least 1"),
            (len(self.channels) >= 2, "channels: give at least two levels"),
            (all(c > 0 and c % 8 == 0 for c in self.channels), "channels: give multiples of 8"),
            (
                self.side >= 2 * halvings and self.side % halvings == 0,
                f"side: give a multiple of {halvings}, at least {2 * halvings}, for this patch and so many levels",
            ),
            (
                min(self.blocks, self.steps, self.batch, self.pool) >= 1,
                "blocks, steps, batch, pool: at least 1",
            ),
            (self.learning_rate > 0, "learning_rate: give more than 0"),
            (0 <= self.ema < 1, "ema: give 0 or more, below 1"),
            (self.timesteps >= 2, "timesteps: give at least 2"),
            (2 <= self.sampling_steps <= self.timesteps, "sampling_steps: give 2 to timesteps"),
            (_is_range(self.widen, 0, 10), "widen: give a range within 0 to 10, lower end first"),
            (
                self.partial is None or 1 <= self.partial < self.timesteps,
                "partial: give null, or a noise level from 1 to timesteps - 1",
            ),
            (
                _is_range(self.opacity, 0, 1) and self.opacity[1] > 0,
                "opacity: give a range within 0 to 1, lower end first, that ends above 0",
            ),
            (self.regions in ("perlin", "rectangles"), "regions: give perlin or rectangles"),
        )


@dataclass(frozen=True)
class LatentDiffusionConfig:
    """Settings of inpainting by a pretrained latent diffusion model; the defaults are those of ExDD.

    Raises:
        ValueError: a setting out of range, which it names.

    Attributes:
        model: name on the Hugging Face hub, or a local folder, of an inpainting pipeline (SDXL or SD 1.5).
        prompts: one is drawn for each defect.
        negative_prompt: what a defect shall not look like.
        strength: how much of what lies under the mask is noised away, above 0 and at most 1.
        guidance: scale of classifier-free guidance, from 1 on.
        steps: of denoising, before `strength` leaves some out; at least 2.
        side: pictures are resized to this square for the model, a multiple of 8.
        padding_mask_crop: pixels around the mask's box that the model works on, which it enlarges to `side`;
            None: it works on the whole picture.
        masks: where masks come from: 'perlin' noise, or those of 'labelled' defects of the line.
        device: auto, cpu or cuda.
        dtype: of the weights; 'auto' is float16 on cuda and float32 elsewhere.

    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    model: str = "diffusers/stable-diffusion-xl-1.0-inpainting-0.1"
    prompts: tuple[str, ...] = ("white marks on the wall", "copper metal scratches")
    negative_prompt: str = "smooth, plain, black, dark, shadow"
    strength: float = 0.99
    guidance: float = 20.0
    steps: int = 30
    side: int = 1024
    padding_mask_crop: int | None = 2
    masks: Literal["perlin", "labelled"] = "perlin"
    device: str = "auto"
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"

    def __post_init__(self) -> None:
        _check(
            (bool(self.model), "model: give a name on the Hugging Face hub or a folder"),
            (len(self.prompts) > 0 and all(self.prompts), "prompts: give at least one, none of them empty"),
            (0 < self.strength <= 1, "strength: give more than 0, at most 1"),
            (self.guidance >= 1, "guidance: give at least 1"),
            (self.steps >= 2 and round(self.steps * self.strength) >= 1, "steps: give at least 2"),
            (self.side >= 16 and self.side % 8 == 0, "side: give a multiple of 8, at least 16"),
            (
                self.padding_mask_crop is None or self.padding_mask_crop >= 0,
                "padding_mask_crop: give null, or 0 or more",
            ),
            (self.masks in ("perlin", "labelled"), "masks: give perlin or labelled"),
            (self.dtype in ("auto", "float16", "bfloat16", "float32"), "dtype: give auto or a float type"),
        )
