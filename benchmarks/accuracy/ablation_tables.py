"""What accuracy/ablations.py varies. Names and values alone, so that tables.py needs nothing installed."""

from collections.abc import Mapping
from dataclasses import dataclass

SCORE = "score"
"""The one setting that no recipe has: 'ratio', or 'positive': nearness to the positive bank alone."""

_STROKES: Mapping[str, object] = {
    "strokes.crack": 0.4,
    "strokes.scratch": 0.2,
    "strokes.pits": 0.25,
    "strokes.stain": 0.15,
    "strokes.widest": 4.0,
}
"""What strokes are drawn where nothing is known of a line's defects."""


_DEPARTURES: Mapping[str, object] = {
    "ddpm.content": "departures",
    "ddpm.partial": 400,
    "ddpm.widen": [0.02, 0.3],
    "ddpm.lines": 0.7,
}
"""What is made of a diffusion model."""
_GENERATED: Mapping[str, object] = {
    "ddpm.content": "pictures",
    "ddpm.partial": None,
    "ddpm.widen": [0.1, 0.2],
    "ddpm.lines": 0.0,
}
"""What RealNet makes of one, and so perhaps the paper of `ddpm_ast`."""


def _vary(detector: str, **settings: object) -> dict[str, object]:
    """How a detector's training varies good pictures, by places in the recipe."""
    return {f"{detector}.training.vary.{name}": value for name, value in settings.items()}


def _unvaried(detector: str) -> dict[str, object]:
    """Not at all, as in the papers."""
    return _vary(detector, flips=False, zoom=1.0, light=0.0, trim=0)


DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "sacd": {
        "even_scale": False,
        "sacd.synthesis": "mixed",
        "sacd.alpha": 0.2,
        "sacd.depth": 2,
        "sacd.distance": "relative",
        "simplex.strength": 0.4,
        "student_layers": None,
        **_unvaried("sacd"),
        **_STROKES,
    },
    "ddpm_ast": {
        "even_scale": False,
        "ddpm_ast.synthesis": "mixed",
        "ddpm_ast.head": True,
        "ddpm_ast.dropout": 0.3,
        "ddpm_ast.symmetric": False,
        "ddpm_ast.distance": "relative",
        "ddpm_ast.far": False,
        "ddpm.regions": "perlin",
        **_DEPARTURES,
        **_unvaried("ddpm_ast"),
        **_STROKES,
    },
    "exdd": {
        "even_scale": False,
        "positive": "synthetic",
        "synthesis": "mixed",
        "synthetic_count": 100,
        SCORE: "ratio",
        **_DEPARTURES,
    },
}
"""Every setting that is varied of a detector, by its place in the recipe, and its value where it is not."""


@dataclass(frozen=True)
class Ablation:
    """One table: a detector, and the settings of each variant by the name it has in the table."""

    detector: str
    variants: Mapping[str, Mapping[str, object]]


def _one(detector: str, setting: str, *values: object) -> Ablation:
    """A table of one setting, named by its values."""
    return Ablation(detector, {str(value): {setting: value} for value in values})


_DIFFUSION = {"ddpm_ast.synthesis": "ddpm"}
_CRACKS = {"strokes.crack": 0.85, "strokes.scratch": 0.15, "strokes.pits": 0.0, "strokes.stain": 0.0}


def _knowledge(detector: str, own: Mapping[str, Mapping[str, object]]) -> Ablation:
    """From the mixture to what recipe `cracks` learns; `own` are variants that the detector alone has."""
    drawn = f"{detector}.synthesis"
    cracks: dict[str, object] = {drawn: "strokes", **_CRACKS}
    variants: dict[str, Mapping[str, object]] = {
        "the mixture of syntheses": {},
        "regions: other material, and pasted pieces": {drawn: "perlin+cutpaste"},
        "strokes of every shape": {drawn: "strokes"},
        "cracks and scratches alone": cracks,
    }
    varied = _vary(detector, flips=True, zoom=1.25, light=0.2, trim=4)
    for name, added in {
        **own,
        "these, and pictures are varied": varied,
        "these, wide cracks too": {"strokes.widest": 10.0},
    }.items():
        cracks = {**cracks, **added}
        variants[name] = cracks
    return Ablation(detector, variants)


ABLATIONS: Mapping[str, Ablation] = {
    "sacd_synthesis": _one("sacd", "sacd.synthesis", "cutpaste", "gaussian", "simplex", "mixed"),
    "sacd_alpha": _one("sacd", "sacd.alpha", 0, 0.2, 0.5, 1),
    "sacd_lambda": Ablation(
        "sacd",
        {
            str(strength): {"sacd.synthesis": "simplex", "simplex.strength": strength}
            for strength in (0.2, 0.4, 0.8)
        },
    ),
    "sacd_depth": _one("sacd", "sacd.depth", 0, 1, 2, 3),
    "sacd_choices": Ablation(
        "sacd",
        {
            "relative distance, stages 1 and 2": {"sacd.distance": "relative", "student_layers": None},
            "cosine distance, as in the paper": {"sacd.distance": "cosine"},
            "stages 1, 2 and 3, as in the paper": {"student_layers": [1, 2, 3]},
        },
    ),
    "ddpm_ast_parts": Ablation(
        "ddpm_ast",
        {
            "full: departures of a diffusion in Perlin regions and lines": _DIFFUSION,
            "fewer lines: 40 % instead of 70 %": {**_DIFFUSION, "ddpm.lines": 0.4},
            "no lines: departures in Perlin regions alone": {**_DIFFUSION, "ddpm.lines": 0.0},
            "no departures: generated pictures in Perlin regions, as in the papers": {
                **_DIFFUSION,
                **_GENERATED,
            },
            "no diffusion: other textures in Perlin regions": {"ddpm_ast.synthesis": "perlin"},
            "no Perlin: departures in rectangles": {**_DIFFUSION, "ddpm.regions": "rectangles"},
            "neither: the mixture of syntheses": {"ddpm_ast.synthesis": "mixed"},
            "the mixture, no dropout in the head": {"ddpm_ast.dropout": 0.0},
            "full, no segmentation head": {**_DIFFUSION, "ddpm_ast.head": False},
            "full, symmetric student": {**_DIFFUSION, "ddpm_ast.symmetric": True},
            "full, cosine distance as in the paper": {**_DIFFUSION, "ddpm_ast.distance": "cosine"},
        },
    ),
    "sacd_knowledge": _knowledge("sacd", {}),
    "ddpm_ast_knowledge": _knowledge("ddpm_ast", {"these, and the head looks far": {"ddpm_ast.far": True}}),
    "exdd_count": Ablation(
        "exdd",
        {
            "0: negative bank only": {"positive": "none"},
            **{str(count): {"synthetic_count": count} for count in (25, 50, 100, 200)},
            "100, positive bank only": {SCORE: "positive"},
        },
    ),
    "exdd_synthesis": Ablation(
        "exdd",
        {
            **_one(
                "exdd",
                "synthesis",
                *("mixed", "cutpaste", "perlin", "strokes", "simplex", "gaussian", "planted", "ddpm"),
            ).variants,
            "ddpm, generated pictures as in the papers": {"synthesis": "ddpm", **_GENERATED},
        },
    ),
}
"""The tables by name."""


def all_settings(detector: str, variant: Mapping[str, object]) -> dict[str, object]:
    """What tells the rows of a variant from others: all of DEFAULTS with its changes, in the order of names.

    Those that it leaves alone are named too, lest rows pass for others once a default has changed.

    Raises:
        ValueError: a setting that DEFAULTS does not name.

    """
    unknown = sorted(set(variant) - set(DEFAULTS[detector]))
    if unknown:
        msg = f"{unknown[0]} is not among DEFAULTS of {detector}; add it there"
        raise ValueError(msg)
    return dict(sorted({**DEFAULTS[detector], **variant}.items()))
