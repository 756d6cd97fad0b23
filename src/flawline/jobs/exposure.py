"""Whether the light of a line varies, so that each picture must be brought to one exposure first."""

import numpy as np

from flawline.data import Dataset
from flawline.progress import say, track
from flawline.recipe import Recipe
from flawline.scoring.picture import EIGHT

MOST_PICTURES = 40
"""Good pictures that are looked at, evenly spread over all."""
SPREAD = 1.0
"""Brightness of the pictures, tenth to ninetieth percentile, in deviations of the pixels of one of them."""


def evened_exposure(dataset: Dataset, recipe: Recipe) -> Recipe:
    """Return the recipe with exposure evened where the brightness of the good training pictures varies.

    To even it out takes away what light adds from picture to picture, and with it how bright a surface is. In
    trials that are not kept generated leather ranked worse by it under steady light, and better where exposures
    differ by up to a stop. SPREAD lies between what generated lines show under the one, below 0.9, and the other,
    above 3.

    Args:
        dataset: its good training pictures decide. Exposure is evened where there are none, and where they are of
            more than eight bits: how much of the range such pictures fill is the camera's choice.
        recipe: left as it is where it says what to do.

    Raises:
        DataError: a picture cannot be read.

    """
    if recipe.even_exposure is not None:
        return recipe
    normals = dataset.train_normals
    if not normals or dataset.bits > EIGHT:
        return recipe.model_copy(update={"even_exposure": True})
    rows = np.unique(np.linspace(0, len(normals) - 1, min(MOST_PICTURES, len(normals))).round().astype(int))
    seen = []
    for row in track(rows.tolist(), "comparing light"):
        picture = normals[row].read_image().astype(np.float32)
        seen.append((float(picture.mean()), float(picture.std())))
    means, deviations = np.array(seen).T
    low, high = np.percentile(means, [10, 90])
    varies = bool(high - low >= SPREAD * np.median(deviations))
    does = "evened" if varies else "left as it is"
    say(
        f"The good pictures of {dataset.name} are {low / 255:.0%} to {high / 255:.0%} bright: exposure is {does}. "
        f"'even_exposure: {str(not varies).lower()}' in a recipe does otherwise."
    )
    return recipe.model_copy(update={"even_exposure": varies})
