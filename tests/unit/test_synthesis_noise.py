"""Simplex and Gaussian noise regions, and planted irregularities."""

import cv2
import numpy as np
import pytest

from flawline.synthesis import Material, read_synthesis, simplex
from flawline.synthesis.foreground import foreground
from flawline.synthesis.simplex import fractal_noise, fractal_picture, noise_region, simplex_noise


def surface(height=96, width=96, colour=False, seed=0):
    tones = np.random.default_rng(seed).normal(120, 15, (height, width, 3 if colour else 1))
    return np.clip(np.broadcast_to(tones, (height, width, 3)), 0, 255).astype(np.uint8)


def make(method, **settings):
    return read_synthesis({"method": method, **settings}).prepare(Material())


def blobs(mask):
    """Pixels of each region of a mask whose pixels touch along an edge."""
    return cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)[2][1:, cv2.CC_STAT_AREA]


def test_simplex_noise_follows_the_formula():
    rng = np.random.default_rng(2)
    y, x = rng.uniform(0, 4, (2, 40)).astype(np.float32)
    noise = simplex_noise(y, x, 2, np.random.default_rng(7))
    skew, unskew = (np.sqrt(3) - 1) / 2, (3 - np.sqrt(3)) / 6
    columns, rows = np.floor(x + (x + y) * skew), np.floor(y + (x + y) * skew)
    wide, tall = int(np.ptp(columns)) + 2, int(np.ptp(rows)) + 2
    angles = np.random.default_rng(7).uniform(0, 2 * np.pi, (2, tall, wide))
    expected = np.zeros((2, 40))
    for n in range(40):
        for r in range(tall):
            for c in range(wide):
                i, j = c + columns.min(), r + rows.min()
                right, down = x[n] - (i - (i + j) * unskew), y[n] - (j - (i + j) * unskew)
                weight = max(0.0, 0.5 - right**2 - down**2) ** 4
                expected[:, n] += weight * (np.cos(angles[:, r, c]) * right + np.sin(angles[:, r, c]) * down)
    np.testing.assert_allclose(noise, 99.20433 * expected, atol=1e-4)


def test_simplex_noise_fills_its_range_around_zero():
    y, x = np.random.default_rng(0).uniform(0, 60, (2, 100_000)).astype(np.float32)
    noise = simplex_noise(y, x, 2, np.random.default_rng(1))
    assert -1 <= noise.min() < -0.98
    assert 0.98 < noise.max() <= 1
    assert abs(noise.mean()) < 0.01
    assert abs(np.corrcoef(noise)[0, 1]) < 0.05


def test_fractal_noise_adds_octaves_of_falling_weight():
    y, x = np.random.default_rng(0).uniform(0, 2000, (2, 20_000)).astype(np.float32)
    one, three = (
        fractal_noise(y, x, 1, np.random.default_rng(1), octaves=octaves, persistence=0.5).var()
        for octaves in (1, 3)
    )
    assert three / one == pytest.approx(1 + 0.5**2 + 0.25**2, rel=0.05)


def test_a_picture_of_noise_is_the_noise_itself_between_its_places():
    picture = fractal_picture(90, 130, 2, np.random.default_rng(3))
    # The same lattice needs the same extent: the picture is computed up to two places beyond its rim.
    y, x = (axis.ravel().astype(np.float32) for axis in np.mgrid[:92:2, :132:2])
    noise = fractal_noise(y, x, 2, np.random.default_rng(3)).reshape(2, 46, 66)
    np.testing.assert_allclose(picture[:, ::2, ::2], noise[:, :45, :65], atol=1e-5)
    assert picture.shape == (2, 90, 130)
    assert np.abs(np.diff(picture, axis=2)).max() < 0.5


def test_noise_regions_have_the_share_and_the_number_of_blobs_asked_for(monkeypatch):
    picture = np.random.default_rng(0).random((1, 128, 160), dtype=np.float32)
    quantiles = []

    def quantile(values, q):
        quantiles.append(1 - q)
        return np.sort(values, axis=None)[int(q * values.size)]

    with monkeypatch.context() as patched:
        patched.setattr(simplex, "fractal_picture", lambda *_, **__: picture)
        patched.setattr(simplex.np, "quantile", quantile)
        for seed in range(100):
            noise_region(128, 160, np.random.default_rng(seed))
    assert 0.02 <= min(quantiles) < 0.03
    assert 0.14 < max(quantiles) <= 0.15
    shares, counts = [], []
    for seed in range(150):
        mask = noise_region(128, 160, np.random.default_rng(seed), min_pixels=12)
        shares.append(mask.mean())
        counts.append(len(blobs(mask)))
        assert not mask.any() or blobs(mask).min() >= 12
    assert max(shares) <= 0.151
    assert 0.01 < np.mean(shares) < 0.085
    assert set(counts) == {1, 2, 3, 4}


def test_lambda_bounds_what_simplex_noise_adds_and_is_reached():
    picture = np.full((128, 128, 3), 128, dtype=np.uint8)
    for seed in range(10):
        result, mask = make("simplex", strength=0.3)(picture, np.random.default_rng(seed))
        largest = np.abs(result[mask].astype(int) - 128).max()
        assert largest == pytest.approx(0.3 * 255, abs=1)


@pytest.mark.parametrize("changed", [{"octaves": 1}, {"persistence": 0.9}, {"frequency": 60}])
def test_the_sizes_of_the_noise_reach_what_is_drawn(changed):
    picture = np.full((128, 128, 3), 128, dtype=np.uint8)
    plain, other = (make("simplex", **settings) for settings in ({}, changed))
    assert (plain(picture, np.random.default_rng(0))[0] != other(picture, np.random.default_rng(0))[0]).any()


def test_the_blended_form_keeps_a_share_of_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    result, mask = make("simplex", strength=1.0, blended=True)(picture, np.random.default_rng(0))
    assert abs(np.corrcoef(result[mask].ravel(), picture[mask].ravel())[0, 1]) < 0.15
    result, mask = make("simplex", strength=0.4, blended=True)(picture, np.random.default_rng(0))
    slope = np.polyfit(picture[mask].ravel(), result[mask].ravel(), 1)[0]
    assert slope == pytest.approx(0.6, abs=0.1)


def test_gaussian_noise_has_its_deviation_and_grains_that_grow_with_the_picture():
    for side, grain in ((256, 1), (1024, 4)):
        picture = np.full((side, 128, 3), 128, dtype=np.uint8)
        result, mask = make("gaussian", deviation=0.1)(picture, np.random.default_rng(1))
        change = np.where(mask, result[:, :, 0].astype(float) - 128, np.nan)
        assert np.nanstd(change) == pytest.approx(25.5, rel=0.1)
        for step, alike in ((grain - 1, True), (grain, False)):
            if step:
                pairs = np.stack([change[:-step:grain][:, ::grain], change[step::grain][:, ::grain]])
                pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
                assert (np.corrcoef(pairs)[0, 1] > 0.9) == alike


def test_noise_has_colour_only_where_the_picture_has():
    for synthesizer in (make("simplex"), make("gaussian"), make("planted")):
        result, mask = synthesizer(surface(), np.random.default_rng(0))
        assert (result == result[:, :, :1]).all()
    for synthesizer in (make("simplex"), make("gaussian")):
        result, mask = synthesizer(surface(colour=True), np.random.default_rng(0))
        change = result[mask].astype(int) - surface(colour=True)[mask]
        assert (change[:, 0] != change[:, 1]).mean() > 0.5


def test_planted_marks_of_large_pictures_are_wider():
    small = [make("planted")(surface(), np.random.default_rng(n))[1].mean() for n in range(40)]
    large = [make("planted")(surface(512, 700), np.random.default_rng(n))[1].mean() for n in range(12)]
    assert np.median(large) > 0.2 * np.median(small)


def test_an_object_is_told_from_its_ground_and_a_texture_fills_the_frame():
    y, x = np.mgrid[:150, :200]
    disc = (y - 70) ** 2 + (x - 110) ** 2 < 45**2
    for ground, body in ((30, 170), (220, 90)):
        picture = surface(150, 200) // 4 + np.where(disc, body, ground)[:, :, None].astype(np.uint8)
        found = foreground(picture)
        assert (found & disc).sum() / (found | disc).sum() > 0.9
    assert foreground(surface(150, 200)).all()
    stripes = surface(150, 200) // 4 + np.where(x % 50 < 20, 170, 30)[:, :, None].astype(np.uint8)
    assert foreground(stripes).all()
    assert foreground(np.full((64, 64, 3), 90, np.uint8)).all()
