"""A small line with labelled boxes: noisy grey pictures with dark squares and bright bars, in layout `voc`."""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 128
KINDS = ("bar", "square")


def draw(root: Path, count: int, *, good: int = 0, seed: int = 0, across: int = 1) -> Path:
    """Draw `count` pictures with one or two defects each, and `good` ones without, with their annotations.

    Each is `across` squares wide, and all of a defective one hold defects.
    """
    rng = np.random.default_rng(seed)
    (root / "JPEGImages").mkdir(parents=True)
    (root / "Annotations").mkdir()
    for number in range(count + good):
        pixels = rng.normal(120, 8, (SIDE, SIDE * across))
        objects = "".join(
            _plant(pixels, rng, number + place + n, place * SIDE)
            for place in range(across if number < count else 0)
            for n in range(1 + number % 2)
        )
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"JPEGImages/{number:03d}.png")
        (root / f"Annotations/{number:03d}.xml").write_text(f"<annotation>{objects}</annotation>")
    return root


def _plant(pixels: np.ndarray, rng: np.random.Generator, kind: int, begin: int) -> str:
    bar = kind % 2 == 0
    height, width = (12, 44) if bar else (26, 26)
    # Each kind has a half of its own, so that two never hide each other.
    top = int(rng.integers(2, SIDE // 2 - height - 2)) + (0 if bar else SIDE // 2)
    left = begin + int(rng.integers(2, SIDE - width - 2))
    pixels[top : top + height, left : left + width] += 90 if bar else -90
    return (
        f"<object><name>{KINDS[0 if bar else 1]}</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
        f"<xmax>{left + width}</xmax><ymax>{top + height}</ymax></bndbox></object>"
    )
