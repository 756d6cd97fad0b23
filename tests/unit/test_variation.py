"""Good pictures varied before crops are cut: what each setting does, and that none does nothing."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flawline.detectors.students.crops import Crops
from flawline.detectors.students.variation import VariationConfig, lit, outline, window, zoomed
from flawline.teachers import Teacher, load_teacher

NONE = VariationConfig()
ALL = VariationConfig(flips=True, zoom=1.25, light=0.2, trim=4)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return load_teacher("builtin", layers=(1, 2), even_exposure=True)


def ramp(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    """Every pixel differs from its neighbours: red counts rows, green columns."""
    rows, columns = np.indices((height, width))
    return np.stack([rows * 3, columns * 3, np.full_like(rows, 90)], axis=2).astype(np.uint8)


def brighter(picture: NDArray[np.uint8], _: object) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An anomaly in the middle ninth."""
    mask = np.zeros(picture.shape[:2], dtype=np.bool_)
    height, width = mask.shape
    mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = True
    changed = picture.copy()
    changed[mask] ^= 64
    return changed, mask


def test_by_default_nothing_changes_and_no_chance_is_spent() -> None:
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    picture = ramp()
    assert np.array_equal(outline(picture, NONE, rng), picture)
    assert window(64, NONE, rng) == 64
    assert zoomed(picture, 1.0) is picture
    assert lit(picture, NONE, rng) is picture
    assert rng.bit_generator.state == before


def test_flips_mirror_both_ways_half_of_the_time() -> None:
    rng = np.random.default_rng(0)
    corners = [outline(ramp(), VariationConfig(flips=True), rng)[0, 0, :2].tolist() for _ in range(200)]
    counts = [corners.count([row, column]) for row in (0, 117) for column in (0, 177)]
    assert sum(counts) == 200
    assert min(counts) > 30


def test_trimmed_pictures_end_a_few_pixels_earlier() -> None:
    rng = np.random.default_rng(0)
    parts = [outline(ramp(), VariationConfig(trim=3), rng) for _ in range(200)]
    lost = [40 - part.shape[0] for part in parts]
    assert (min(lost), max(lost)) == (0, 6)
    assert 0.4 < np.mean([part.shape != (40, 60, 3) for part in parts]) < 0.6
    assert {part[0, 0, 0] // 3 for part in parts} == {0, 1, 2, 3}, "from its own border on"
    small = [outline(ramp(16, 16), VariationConfig(trim=16), rng).shape[0] for _ in range(200)]
    assert min(small) == 12, "never to a sliver"


def test_zoom_takes_larger_and_smaller_windows_to_one_crop() -> None:
    rng = np.random.default_rng(0)
    sides = [window(64, VariationConfig(zoom=1.25), rng) for _ in range(500)]
    assert (min(sides), max(sides)) == (52, 80)
    assert np.mean(np.log(sides)) == pytest.approx(np.log(64), abs=0.02)
    part = zoomed(ramp(40, 60), 64 / 80)
    assert part.shape == (32, 48, 3)
    assert part.dtype == np.uint8
    # A ramp stays a ramp, now steeper, in the middle of each pixel.
    assert np.abs(part[:, 5, 0] - 3 * ((np.arange(32) + 0.5) * 1.25 - 0.5)).max() <= 1.5


def test_light_keeps_the_mean_and_grey_grey() -> None:
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.normal(120, 10, (64, 64, 1)), 3, axis=2).astype(np.uint8)
    parts = [lit(grey, VariationConfig(light=0.2), rng) for _ in range(200)]
    assert np.mean([part is grey for part in parts]) == pytest.approx(0.3, abs=0.1)
    changed = [part for part in parts if part is not grey]
    assert max(abs(float(part.mean()) - float(grey.mean())) for part in changed) < 3
    assert all(np.array_equal(part[..., 0], part[..., 2]) for part in changed)
    falls = [float(part[:8].mean()) - float(part[-8:].mean()) for part in changed]
    assert min(falls) < -10
    assert max(falls) > 10


def test_varied_pairs_still_differ_only_under_the_mask(teacher: Teacher) -> None:
    pictures = [np.roll(np.resize(ramp(96, 80), (96, 96, 3)), shift, axis=1) for shift in range(4)]
    crops = Crops(pictures, [(96, 80)] * 4, brighter, teacher, crop=64, seed=0, vary=ALL)
    batch = crops.draw(1, 40)
    assert batch.clean.shape == (40, 3, 64, 64)
    assert torch.equal((batch.clean != batch.corrupted).any(dim=1), batch.mask > 0)
    again = Crops(pictures, [(96, 80)] * 4, brighter, teacher, crop=64, seed=0, vary=ALL).draw(1, 40)
    assert torch.equal(batch.corrupted, again.corrupted)
    plain = Crops(pictures, [(96, 80)] * 4, brighter, teacher, crop=64, seed=0).draw(1, 40)
    assert not torch.equal(batch.clean, plain.clean)


@pytest.mark.parametrize("setting", [{"flips": True}, {"zoom": 1.25}, {"light": 0.2}, {"trim": 4}])
def test_every_setting_alone_reaches_the_crops(teacher: Teacher, setting: dict[str, float]) -> None:
    def drawn(vary: VariationConfig) -> torch.Tensor:
        picture = np.resize(ramp(96, 96), (96, 96, 3))
        return Crops([picture], [(96, 96)], brighter, teacher, crop=64, seed=0, vary=vary).draw(0, 20).clean

    assert not torch.equal(drawn(VariationConfig(**setting)), drawn(NONE))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"zoom": 0.5}, r"zoom\n.* greater than or equal to 1"),
        ({"light": -0.1}, r"light\n.* greater than or equal to 0"),
        ({"trim": 99}, r"trim\n.* less than or equal to 16"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VariationConfig.model_validate(settings)
