"""Generated lines: what is drawn, that it is exact and repeatable, and that it is drawn once."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from flawline.data import GOOD, load_dataset, surfaces
from flawline.data.flaws import DEFECTS, plant_defect
from flawline.data.surfaces import SurfaceOptions, defect_kinds, load
from flawline.data.textures import FAMILIES, render_surface
from flawline.errors import DataError

SMALL = SurfaceOptions(size=(96, 128), normals=3, test_normals=2, test_defects=7, train_defects=2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "flawline" / "surfaces"


@pytest.mark.parametrize("family", FAMILIES)
class TestFamilies:
    def test_a_picture_of_any_size(self, family: str) -> None:
        pixels = render_surface(family, (90, 200), np.random.default_rng(0))
        assert pixels.shape == (90, 200, 3)
        assert pixels.dtype == np.float32
        assert pixels.min() >= 0
        assert pixels.max() <= 1
        assert (
            (pixels == 0) | (pixels == 1)
        ).mean() < 0.005  # a camera set up with care clips next to nothing
        assert 0.02 < pixels.mean(axis=2).std() < 0.25

    def test_seeds_alone_decide(self, family: str) -> None:
        one, again, other = (render_surface(family, (64, 64), np.random.default_rng(s)) for s in (1, 1, 2))
        np.testing.assert_array_equal(one, again)
        assert np.abs(one - other).mean() > 0.01

    def test_pictures_of_one_line_are_alike(self, family: str) -> None:
        """Brightness and the grain's spectrum of a picture are nearer to its line than to most other lines."""

        def summary(line: int, picture: int) -> np.ndarray:
            pixels = render_surface(family, (128, 128), np.random.default_rng(picture), line_seed=line)
            grey = pixels.mean(axis=2)
            spectrum = np.abs(np.fft.rfft2(grey - grey.mean()))[:64, :64]
            bands = cv2.resize(spectrum, (8, 8), interpolation=cv2.INTER_AREA).ravel()
            return np.concatenate([np.log(pixels.mean(axis=(0, 1))) * 5, np.log(bands)])

        lines = [np.mean([summary(line, picture) for picture in range(4)], axis=0) for line in range(5)]
        nearest = [
            int(np.argmin([np.linalg.norm(summary(line, picture) - centre) for centre in lines]))
            for line in range(5)
            for picture in (10, 11)
        ]
        assert sum(found == index // 2 for index, found in enumerate(nearest)) >= 7


@pytest.mark.parametrize("kind", DEFECTS)
@pytest.mark.parametrize("family", ["woven", "ground_steel"])
class TestDefects:
    def test_the_mask_is_where_the_picture_changed(self, family: str, kind: str) -> None:
        for seed in range(8):
            pixels = render_surface(family, (128, 160), np.random.default_rng(seed))
            before = pixels.copy()
            flawed, mask = plant_defect(pixels, kind, np.random.default_rng(seed), 0.5, 1.0)
            np.testing.assert_array_equal(pixels, before)
            assert flawed.dtype == np.float32
            assert flawed.min() >= 0
            assert flawed.max() <= 1
            assert mask.shape == (128, 160)
            assert 4 <= mask.sum() < 0.25 * mask.size
            change = np.abs(flawed - before).max(axis=2)
            near = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) > 0
            assert change[~near].max() < 0.02  # soft edges end close to the mask
            assert change[mask].mean() > 5 * change[~mask].mean()

    def test_contrast_and_scale(self, family: str, kind: str) -> None:
        pixels = render_surface(family, (256, 256), np.random.default_rng(0))

        def total(contrast: float, scale: float) -> tuple[float, float]:
            planted = [
                plant_defect(pixels, kind, np.random.default_rng(seed), contrast, scale) for seed in range(6)
            ]
            change = np.mean([np.abs(flawed - pixels)[mask].mean() for flawed, mask in planted])
            return float(change), float(np.mean([mask.sum() for _, mask in planted]))

        assert total(1.0, 1.0)[0] > 1.15 * total(0.3, 1.0)[0]
        assert total(0.5, 2.0)[1] > 1.3 * total(0.5, 1.0)[1]


def test_a_missing_thread_lies_along_a_thread() -> None:
    pixels = render_surface("woven", (256, 256), np.random.default_rng(0))
    for seed in range(6):
        _, mask = plant_defect(pixels, "missing_thread", np.random.default_rng(seed), 0.5, 1.0)
        rows, columns = np.nonzero(mask)
        long, short = sorted((np.ptp(rows) + 1, np.ptp(columns) + 1), reverse=True)
        assert long >= 25
        assert 5 <= short <= 16
        grey, lying = pixels.mean(axis=2), mask
        if np.ptp(rows) > np.ptp(columns):
            grey, lying = grey.T, mask.T
        along = np.flatnonzero(lying.sum(axis=0) >= 5)
        top, bottom = np.argmax(lying, axis=0)[along], 255 - np.argmax(lying[::-1], axis=0)[along]
        middle = grey[(top + bottom) // 2, along].mean()
        assert middle > 1.05 * max(
            grey[top, along].mean(), grey[bottom, along].mean()
        )  # gaps lie on both sides


def test_a_discolouration_is_as_bright_as_the_surface() -> None:
    pixels = 0.2 + 0.6 * render_surface("leather", (128, 128), np.random.default_rng(0))  # nothing clips
    flawed, mask = plant_defect(pixels, "discolouration", np.random.default_rng(1), 0.5, 1.0)
    change = flawed - pixels
    assert np.abs(change @ (0.299, 0.587, 0.114)).max() < 1e-5
    assert change[mask][:, 0].mean() - change[mask][:, 2].mean() > 0.03


def test_the_mask_is_the_blend_weight_above_its_level(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    monkeypatch.setitem(DEFECTS, "ramp", lambda pixels, *_: (ramp, np.zeros_like(pixels)))
    pixels = np.full((64, 64, 3), 0.5, dtype=np.float32)
    flawed, mask = plant_defect(pixels, "ramp", np.random.default_rng(0), 0.5, 1.0)
    np.testing.assert_array_equal(mask, ramp > 0.3)
    np.testing.assert_allclose(flawed[:, :, 0], 0.5 * (1 - ramp), atol=1e-6)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(
        DataError, match=r"no surface family 'silk'; choose one of brushed_metal, cast, woven"
    ):
        render_surface("silk", (64, 64), rng)
    with pytest.raises(DataError, match=r"no defect kind 'rust'; choose one of scratch, pit"):
        plant_defect(np.zeros((64, 64, 3), dtype=np.float32), "rust", rng, 0.5, 1.0)


def test_light_changes_the_exposure_of_a_picture_and_not_what_it_shows(tmp_path: Path) -> None:
    def pictures(light: float) -> NDArray[np.float64]:
        options = SurfaceOptions(
            size=(64, 64), normals=12, test_normals=0, test_defects=0, train_defects=0, light=light
        )
        return np.stack([sample.read_image() for sample in load(options, cache=tmp_path)[1]]).astype(float)

    steady, unsteady = pictures(0.0), pictures(1.0)
    assert unsteady.mean(axis=(1, 2, 3)).std() > 4 * steady.mean(axis=(1, 2, 3)).std()
    for one, other in zip(steady, unsteady, strict=True):
        unclipped = (other > 0) & (other < 255)
        assert np.corrcoef(one[unclipped], other[unclipped])[0, 1] > 0.95


class TestOptions:
    def test_read_from_text(self) -> None:
        text = "brushed_metal, seed=3,size=320x240,normals=200,contrast=0.4"
        options = SurfaceOptions.parse(text)
        assert options == SurfaceOptions("brushed_metal", 3, (320, 240), 200, contrast=0.4)
        assert options.spec() == f"surfaces:{text.replace(' ', '')}"
        assert SurfaceOptions.parse("") == SurfaceOptions()
        assert SurfaceOptions().spec() == "surfaces"
        assert SurfaceOptions.parse("size=128").size == (128, 128)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("silk", "no family 'silk'; choose one of"),
            ("colour=red", "no option 'colour'; options are family, seed, size"),
            ("seed=x", "seed is 'x'; give a number like 0"),
            ("size=20", "size is 20x20; give sides of 64"),
            ("size=256x", "size is '256x'; give a number like 256x256"),
            ("normals=0", "normals must be at least 1"),
            ("contrast=0", "contrast must be above 0"),
            ("contrast=nan", "contrast must be above 0"),
            ("light=3", "light must be from 0 to 2 stops"),
            ("leather,kind=rust", "leather has no kind 'rust'; choose one of scratch, .*, discolouration"),
            ("leather,kind=missing_thread", "leather has no kind 'missing_thread'"),
        ],
    )
    def test_refuses_what_it_cannot_draw(self, text: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            load_dataset(f"surfaces:{text}")


class TestLine:
    def test_holds_what_was_asked_for(self) -> None:
        dataset = load_dataset(SMALL.spec())
        assert dataset.name == SMALL.spec()
        assert (len(dataset.train_normals), len(dataset.train_defects), len(dataset.test)) == (3, 2, 9)
        assert {s.defect_class for s in dataset.test} == {GOOD, *defect_kinds("woven")}
        assert len({s.group for s in dataset.samples}) == len(dataset.samples)
        for sample in dataset.samples:
            assert sample.read_image().shape == (96, 128, 3)
            marked = sample.read_mask(96, 128).mean()
            assert 0 < marked < 0.25 if sample.is_defect else marked == 0
        assert len({s.image.read_bytes() for s in dataset.samples}) == len(dataset.samples)

    def test_pictures_share_the_colour_that_the_seed_gives_the_line(self) -> None:
        def tints(seed: int) -> np.ndarray:
            _, samples = load(replace(SMALL, seed=seed, test_defects=0, train_defects=0))
            means = np.array([sample.read_image().mean(axis=(0, 1)) for sample in samples])
            return means / means.sum(axis=1, keepdims=True)

        lines = [tints(seed) for seed in range(6)]
        assert max(np.ptp(tint, axis=0).max() for tint in lines) < 0.005
        assert np.ptp([tint.mean(axis=0) for tint in lines], axis=0).max() > 0.03

    def test_all_defects_are_of_the_kind_that_is_asked_for(self) -> None:
        dataset = load_dataset(replace(SMALL, kind="discolouration").spec())
        assert {s.defect_class for s in dataset.test} == {GOOD, "discolouration"}
        assert dataset.name.endswith(",kind=discolouration")

    def test_a_thread_is_missing_only_from_cloth(self) -> None:
        assert "missing_thread" in defect_kinds("woven")
        assert "missing_thread" not in defect_kinds("leather")

    def test_the_same_options_draw_the_same_files(self, tmp_path: Path) -> None:
        first, second = (load(SMALL, cache=tmp_path / name)[0] for name in ("a", "b"))
        files = sorted(path.relative_to(first) for path in first.rglob("*.*"))
        assert len(files) == 14 + 9 + 1
        assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)

    def test_more_pictures_leave_the_first_ones_as_they_are(self, tmp_path: Path) -> None:
        few, _ = load(SMALL, cache=tmp_path)
        many, _ = load(replace(SMALL, normals=5, test_defects=9), cache=tmp_path)
        assert few != many
        for name in ("good/train_0002.png", "defect_pit/test_0001.png"):
            assert (few / name).read_bytes() == (many / name).read_bytes()

    def test_is_drawn_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn = load(SMALL)
        monkeypatch.setattr(surfaces, "render_surface", None)
        assert load(SMALL) == drawn

    def test_is_a_folder_layout_by_itself(self) -> None:
        root, samples = load(SMALL)
        assert load_dataset(f"folder:{root}").samples == samples
        (root / "split.csv").unlink()
        without = {(s.image, s.defect_class, s.mask) for s in load_dataset(f"folder:{root}").samples}
        assert without == {(s.image, s.defect_class, s.mask) for s in samples}

    def test_a_broken_off_drawing_leaves_nothing(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = 0

        def fail_on_third(*args: object, **options: object) -> np.ndarray:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise KeyboardInterrupt
            return render_surface(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(surfaces, "render_surface", fail_on_third)
        with pytest.raises(KeyboardInterrupt):
            load(SMALL)
        assert list(cache.iterdir()) == []

    def test_a_cache_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match=r"cannot write the generated line to .*set XDG_CACHE_HOME"):
            load(SMALL, cache=tmp_path / "file")
