"""Pictures on disk and verdicts on them, made up so that every figure is known beforehand."""

from pathlib import Path

import numpy as np
from PIL import Image

from flawline.data.sample import GOOD, Sample
from flawline.scoring.picture import Geometry
from flawline.scoring.verdict import Decision, Verdict

WIDTH, HEIGHT, SIZE = 96, 48, 32
"""Pictures are twice as wide as high, so their map fills the upper half of its square."""


def sample(
    folder: Path, name: str, defect_class: str = GOOD, mask: str | None = "spot", group: str | None = None
) -> Sample:
    """Write a grey picture, and a mask with a spot in its right half, an empty one, or none."""
    image = folder / defect_class / f"{name}.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 128, np.uint8)).save(image)
    label = None
    if defect_class != GOOD and mask is not None:
        label = image.with_name(f"{name}_mask.png")
        pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
        if mask == "spot":
            pixels[12:36, 60:84] = 255
        Image.fromarray(pixels).save(label)
    return Sample(image, defect_class, label, group or str(image), "test")


def verdict(
    score: float, called: bool, spot: float = 0.0, p_value: float = 0.5, *, again: bool = False
) -> Verdict:
    """Say a map of 0.1 with `spot` on exactly the labelled spot, and 9.0 on the padding, which must not count."""
    anomaly_map = np.full((SIZE, SIZE), 0.1, np.float32)
    anomaly_map[SIZE // 2 :] = 9.0
    anomaly_map[4:12, 20:28] += np.float32(spot)
    mask = (anomaly_map >= 1).astype(np.uint8)
    boxes = np.full((4, 6), -1.0, np.float32)
    if spot >= 1:
        boxes[0] = [60, 12, 84, 36, spot, 0]
    geometry = Geometry(WIDTH, HEIGHT, SIZE, SIZE // 2, SIZE)
    decision = Decision.REJECT if called else Decision.LOOK_AGAIN if again else Decision.PASS
    return Verdict(score, p_value, decision, anomaly_map, mask, boxes, geometry)
