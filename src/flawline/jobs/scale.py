"""One scale for the pictures of a line that were cut out of larger ones."""

import math

import numpy as np

from flawline.data import Dataset
from flawline.progress import say
from flawline.recipe import Recipe, WindowsConfig
from flawline.scoring.picture import SIZES
from flawline.scoring.windows import MOST_PIXELS, MOST_SCALE

SPREAD = 1.25
"""Ratio of the ninetieth to the tenth percentile, of longer sides and of width to height, that tells of cutting."""
MOST_GROWTH = 2
"""A larger window than so many times the asked size would cost more than several windows."""
MOST_AREA = MOST_PIXELS // 4
"""Pixels, at one scale, of the largest picture known at the build; those to be judged may be larger still."""


def evened_scale(dataset: Dataset, recipe: Recipe) -> Recipe:
    """Return the recipe with windows at one scale where the good training pictures are cut-outs of many shapes.

    Brought into the square one by one, a narrow cut-out is enlarged and a wide one shrunk: the same surface shows
    another texture on each, and all look odd. At one scale it shows one. Longer sides that differ while the shape
    stays the same tell of another resolution, and not of cutting; such pictures are brought into the square.

    The scale is such that the largest picture fills one window, and the median one is seen at least as large as in
    a square of the asked size. Where that takes a window of more than MOST_GROWTH times the size, windows of the
    asked size are laid over each picture at the scale at which the median one fills one. Where that enlarges
    pictures more than windows may, or makes one larger than MOST_AREA, each fills the square after all.

    Args:
        dataset: its pictures, of which only the headers are read; the good training pictures decide.
        recipe: left as it is where it names windows or regions to ignore, or has `even_scale` off.

    Raises:
        DataError: a picture cannot be read.

    """
    if not recipe.even_scale or recipe.windows is not None or recipe.ignore is not None:
        return recipe
    sides = np.array([sample.read_size() for sample in dataset.train_normals], dtype=np.float64)
    if not len(sides):
        return recipe
    longer = sides.max(1)
    spreads = [_spread(longer), _spread(sides[:, 0] / sides[:, 1])]
    if min(spreads) <= SPREAD:
        return recipe
    needed = recipe.size * longer.max() / np.median(longer)
    size = next((size for size in SIZES if needed <= size <= MOST_GROWTH * recipe.size), None)
    scale = recipe.size / np.median(longer) if size is None else size / longer.max()
    largest = max(math.prod(sample.read_size()) for sample in dataset.samples)
    if scale > MOST_SCALE or scale**2 * largest > MOST_AREA:
        return recipe
    size = size or recipe.size
    say(
        f"The pictures of {dataset.name} have many shapes, the longer side {longer.min():.0f} to "
        f"{longer.max():.0f} pixels: all are looked at at one scale, {scale:.2f} pixels for each of theirs, in "
        f"windows of {size}. With 'even_scale: false' in a recipe each would fill the square."
    )
    windows = WindowsConfig(scale=float(scale))
    return recipe.model_copy(update={"size": size, "windows": windows})


def _spread(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    low, high = np.percentile(values, [10, 90])
    return float(high / low)
