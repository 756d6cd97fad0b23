"""Synthesizers by the name that a recipe or the command line gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from flawline.errors import RecipeError
from flawline.synthesis.configs import DDPMConfig, LatentDiffusionConfig, SimplexConfig, StrokesConfig
from flawline.synthesis.mixed import Mixed
from flawline.synthesis.plain import MIN_PIXELS, Mask, Pixels, Sources, Synthesizer

# Each method is imported when it is asked for: some need OpenCV, some torch, and one diffusers.


def _cutpaste(sources: Sources, min_pixels: int) -> Synthesizer:
    from flawline.synthesis.cutpaste import CutPaste

    return CutPaste(sources, min_pixels)


def _perlin(sources: Sources, min_pixels: int) -> Synthesizer:
    from flawline.synthesis.perlin import PerlinBlend

    return PerlinBlend(sources, min_pixels)


def _strokes(_sources: Sources, min_pixels: int, config: StrokesConfig | None = None) -> Synthesizer:
    from flawline.synthesis.strokes import Strokes

    return Strokes(min_pixels, config)


def _gaussian(_sources: Sources, min_pixels: int) -> Synthesizer:
    from flawline.synthesis.gaussian import GaussianNoise

    return GaussianNoise(min_pixels)


def _simplex(_sources: Sources, min_pixels: int, config: SimplexConfig | None = None) -> Synthesizer:
    from flawline.synthesis.simplex import SimplexBlend

    return SimplexBlend(min_pixels, **asdict(config or SimplexConfig()))


def _planted(sources: Sources, min_pixels: int) -> Synthesizer:
    from flawline.synthesis.planted import Planted

    return Planted(sources, min_pixels)


_SINGLE: dict[str, Callable[[Sources, int], Synthesizer]] = {
    "cutpaste": _cutpaste,
    "perlin": _perlin,
    "strokes": _strokes,
    "gaussian": _gaussian,
    "simplex": _simplex,
    "planted": _planted,
}
SIMPLEX, STROKES, DDPM, LATENT_DIFFUSION = "simplex", "strokes", "ddpm", "latent_diffusion"

JOIN = "+"
"""`ddpm+mixed` draws each defect by one of both."""

READY = (*_SINGLE, Mixed.name)
"""Methods that need nothing but the pictures."""

METHODS = (*READY, DDPM, LATENT_DIFFUSION)
"""Every name that `get_synthesizer` knows."""

MIXED_WEIGHTS: Mapping[str, float] = {"strokes": 0.5, "perlin": 0.3, "cutpaste": 0.2}
"""How often `mixed` uses each method when nothing else is asked for."""


def parts_of(name: str) -> set[str]:
    """Return the single methods that `name` of `get_synthesizer` draws from: itself, or those it joins or mixes."""
    methods = set(name.split(JOIN))
    return methods - {Mixed.name} | set(MIXED_WEIGHTS) if Mixed.name in methods else methods


def get_synthesizer(
    name: str,
    sources: Sources = (),
    min_pixels: int = MIN_PIXELS,
    weights: Mapping[str, float] = MIXED_WEIGHTS,
    textures: Sequence[Pixels] = (),
    ddpm: DDPMConfig | None = None,
    latent_diffusion: LatentDiffusionConfig | None = None,
    masks: Sequence[Mask] = (),
    simplex: SimplexConfig | None = None,
    strokes: StrokesConfig | None = None,
) -> Synthesizer:
    """Make a synthesizer.

    Args:
        name: one of METHODS, or several with JOIN between them, each drawn as often.
        sources: normal pictures of the same line to take material from; empty: each picture is its own source.
        min_pixels: fewest pixels of a defect, at least 1.
        weights: for `mixed`, method name to weight.
        textures: for `ddpm`, generated pictures, UINT8 [h, w, 3] each, as `DDPM.generate` gives them.
        ddpm: settings of that method; by default, its own.
        latent_diffusion: settings of that method; by default, its own.
        masks: for `latent_diffusion`, BOOL [h, w] each, of labelled defects.
        simplex: settings of that method; by default, its own.
        strokes: settings of that method, alone and within `mixed`; by default, its own.

    Raises:
        RecipeError: an unknown name, a `min_pixels` below 1, weights that cannot be used, `ddpm` without
            textures, or `latent_diffusion` with a model that cannot be loaded.

    """
    if min_pixels < 1:
        msg = f"min_pixels is {min_pixels}; a defect has at least 1 pixel"
        raise RecipeError(msg)

    def single(method: str) -> Synthesizer:
        if method == SIMPLEX:
            return _simplex(sources, min_pixels, simplex)
        if method == STROKES:
            return _strokes(sources, min_pixels, strokes)
        if method == DDPM:
            return _with_textures(textures, min_pixels, ddpm or DDPMConfig())
        if method == LATENT_DIFFUSION:
            from flawline.synthesis.latent_diffusion import LatentDiffusion

            return LatentDiffusion(latent_diffusion or LatentDiffusionConfig(), min_pixels, masks)
        if method not in _SINGLE:
            msg = f"there is no synthesis method {method!r}; choose one of {', '.join(METHODS)}"
            raise RecipeError(msg)
        return _SINGLE[method](sources, min_pixels)

    def any_method(method: str) -> Synthesizer:
        if method == Mixed.name:
            return Mixed([single(part) for part in weights], list(weights.values()))
        return single(method)

    parts = [any_method(part) for part in name.split(JOIN)]
    return parts[0] if len(parts) == 1 else Mixed(parts, [1.0] * len(parts))


def _with_textures(textures: Sequence[Pixels], min_pixels: int, config: DDPMConfig) -> Synthesizer:
    if not textures:
        msg = (
            "synthesis method 'ddpm' has no generated textures; train it on the line first with "
            "'flawline synthesize --method ddpm', or give those of train_ddpm(...).generate(...)"
        )
        raise RecipeError(msg)
    from flawline.synthesis.ddpm_blend import DDPMBlend

    return DDPMBlend(
        textures,
        min_pixels,
        opacity=config.opacity,
        foreground=config.foreground,
        whole=config.whole,
        regions=config.regions,
    )
