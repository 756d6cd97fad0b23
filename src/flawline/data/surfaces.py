"""Layout `surfaces`: a line of pictures drawn by rule from a seed, with exact masks.

`surfaces` alone, or options after a colon: `surfaces:brushed_metal,seed=3,size=320x240,normals=200,contrast=0.4`.
The pictures are drawn once, into a folder of layout `folder` with a split.csv, and read from there afterwards.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawline.data.flaws import DEFECTS, plant_defect
from flawline.data.sample import GOOD, Sample, Split
from flawline.data.splits import read_split, write_split
from flawline.data.textures import FAMILIES, Plane, render_surface
from flawline.errors import DataError
from flawline.files import cache_folder
from flawline.progress import track

__all__ = ["SurfaceOptions", "defect_kinds", "load", "plant_defect", "render_surface"]

DRAWING = 1
"""Raised whenever the same options give other pictures, so that old ones are not taken for new."""
MIN_SIDE, MAX_SIDE = 64, 4096
"""Pixels; anything smaller holds too little of a surface and of a defect."""
ASKED_FOR = ("discolouration",)
"""Kinds of defect that are drawn only where a line names them: they are as bright as the surface."""
MOST_PICTURES = 100_000
"""Pictures of one kind that are drawn at most."""


@dataclass(frozen=True)
class SurfaceOptions:
    """What a generated line holds.

    `seed` draws everything. `size` is height and width in pixels. `normals` and `train_defects` are numbers of
    pictures to train on, the other two to test on. `contrast` and `scale` are those of `plant_defect`. `light` is
    by how many stops, either way, pictures differ in exposure. `kind` names the one kind that all defects are of;
    without it they are of all kinds that change brightness. Raises DataError on a value outside its range.
    """

    family: str = "woven"
    seed: int = 0
    size: tuple[int, int] = (256, 256)
    normals: int = 120
    test_normals: int = 60
    test_defects: int = 60
    train_defects: int = 12
    contrast: float = 0.5
    scale: float = 1.0
    light: float = 0.0
    kind: str = ""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            _refuse(f"there is no family '{self.family}'; choose one of {', '.join(FAMILIES)}")
        if not MIN_SIDE <= min(self.size) <= max(self.size) <= MAX_SIDE:
            _refuse(f"size is {self.size[0]}x{self.size[1]}; give sides of {MIN_SIDE} to {MAX_SIDE} pixels")
        counts = (self.normals, self.test_normals, self.test_defects, self.train_defects)
        if self.normals < 1 or min(counts) < 0 or max(counts) > MOST_PICTURES:
            _refuse(
                f"normals must be at least 1, the other counts at least 0, and none above {MOST_PICTURES}"
            )
        if not 0 <= self.seed < 2**32:
            _refuse(f"the seed must be from 0 to {2**32 - 1}")
        if not (0 < self.contrast <= 4 and 0.1 <= self.scale <= 10):
            _refuse("contrast must be above 0 and at most 4, scale from 0.1 to 10")
        if not 0 <= self.light <= 2:
            _refuse("light must be from 0 to 2 stops")
        if self.kind and self.kind not in (kinds := (*defect_kinds(self.family), *ASKED_FOR)):
            _refuse(f"{self.family} has no kind '{self.kind}'; choose one of {', '.join(kinds)}")

    @classmethod
    def parse(cls, text: str) -> "SurfaceOptions":
        """Read `[FAMILY][,NAME=VALUE...]`; `size` is `HEIGHTxWIDTH`, or one number for a square."""
        defaults: dict[str, Any] = {field.name: field.default for field in fields(cls)}
        values: dict[str, Any] = {}
        for part in filter(None, map(str.strip, text.split(","))):
            name, equals, value = part.partition("=")
            if not equals:
                name, value = "family", part
            if name not in defaults:
                _refuse(f"there is no option '{name}'; options are {', '.join(defaults)}")
            try:
                values[name] = _read_size(value) if name == "size" else type(defaults[name])(value)
            except ValueError:
                _refuse(f"{name} is '{value}'; give a number like {_text(defaults[name])}")
        return cls(**values)

    def spec(self) -> str:
        """Return the text that names this line to `load_dataset`, without what is left at its default."""
        parts = [] if self.family == SurfaceOptions.family else [self.family]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(f"{field.name}={_text(value)}")
        return "surfaces:" + ",".join(parts) if parts else "surfaces"

    def folder_name(self) -> str:
        """Return a folder name that no other options share."""
        counts = f"{self.normals}+{self.test_normals}+{self.test_defects}+{self.train_defects}"
        return (
            f"{self.family}-seed{self.seed}-{_text(self.size)}-{counts}"
            f"-contrast{self.contrast}-scale{self.scale}-light{self.light}{self.kind and '-'}{self.kind}-v{DRAWING}"
        )


def _refuse(why: str) -> NoReturn:
    msg = f"surfaces: {why}"
    raise DataError(msg)


def _read_size(value: str) -> tuple[int, int]:
    height, cross, width = value.partition("x")
    return int(height), int(width if cross else height)


def _text(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def defect_kinds(family: str) -> tuple[str, ...]:
    """Kinds of defect that a family has unless one is asked for; a thread is missing where there are threads."""
    left_out = ASKED_FOR if family == "woven" else (*ASKED_FOR, "missing_thread")
    return tuple(kind for kind in DEFECTS if kind not in left_out)


def load(options: SurfaceOptions, *, cache: Path | None = None) -> tuple[Path, tuple[Sample, ...]]:
    """Draw the line unless it has been drawn before, and read it.

    Args:
        options: what to draw. Kinds of defect take turns, so each is there about equally often.
        cache: folder that holds the drawn lines, each in a folder named after its options; by default
            `surfaces` in flawline.files.cache_folder().

    Returns:
        The line's folder, and its samples in stable order: train normals, test normals, test and train defects.

    Raises:
        DataError: the cache folder cannot be written, or a drawn line has lost files since.

    """
    if cache is None:
        cache = cache_folder() / "surfaces"
    root = cache / options.folder_name()
    if not root.is_dir():
        try:
            _draw_into(root, options)
        except OSError as error:
            msg = f"cannot write the generated line to {root} ({error}); set XDG_CACHE_HOME to a writable folder"
            raise DataError(msg) from error
    return root, read_split(root)


def _draw_into(root: Path, options: SurfaceOptions) -> None:
    """Draw beside `root` and move the whole folder there at once, so that no half-drawn line is ever read."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".drawing-") as temporary:
        line = Path(temporary) / root.name
        write_split(line, list(_draw(line, options)))
        try:
            line.rename(root)
        except OSError:
            if not root.is_dir():  # otherwise another process was faster, and drew the same
                raise


def _draw(root: Path, options: SurfaceOptions) -> Iterator[Sample]:
    kinds = (options.kind,) if options.kind else defect_kinds(options.family)
    parts: tuple[tuple[Split, int, bool], ...] = (
        ("train", options.normals, False),
        ("test", options.test_normals, False),
        ("test", options.test_defects, True),
        ("train", options.train_defects, True),
    )
    plan = [
        (stream, index, split, kinds[index % len(kinds)] if defect else GOOD)
        for stream, (split, count, defect) in enumerate(parts)
        for index in range(count)
    ]
    for stream, index, split, kind in track(plan, f"drawing {options.spec()}"):
        # A picture depends on the seed, its part and its place there, not on how many others are drawn.
        rng = np.random.default_rng([options.seed, stream, index])
        pixels = render_surface(options.family, options.size, rng, line_seed=options.seed)
        name = f"{split}_{index:04d}.png"
        if kind == GOOD:
            pixels = _exposed(pixels, options.light, rng)
            yield Sample(_save(root / "good" / name, pixels), GOOD, None, f"good/{split}_{index:04d}", split)
            continue
        pixels, mask = plant_defect(pixels, kind, rng, options.contrast, options.scale)
        pixels = _exposed(pixels, options.light, rng)
        folder = f"defect_{kind}"
        yield Sample(
            image=_save(root / folder / name, pixels),
            defect_class=kind,
            mask=_save(root / "masks" / folder / name, mask.astype(np.float32)),
            group=f"{folder}/{split}_{index:04d}",
            split=split,
        )


def _exposed(pixels: Plane, light: float, rng: np.random.Generator) -> Plane:
    """Expose RGB in [0, 1] by up to `light` stops more or less, with another gamma as cameras' automatics have."""
    if not light:
        return pixels
    gain, gamma = 2 ** rng.uniform(-light, light), 2 ** rng.uniform(-light / 4, light / 4)
    return np.clip(gain * pixels**gamma, 0, 1).astype(np.float32)


def _save(path: Path, values: NDArray[np.float32]) -> Path:
    """Write values in [0, 1], [H, W] or [H, W, 3], as an 8-bit PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.round(values * 255).astype(np.uint8)).save(path, compress_level=3)
    return path
