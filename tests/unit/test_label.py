"""Which pixels of a mask count, and which masks are refused as ambiguous."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flawline.data import Sample, load_dataset
from flawline.data.label import check_marks_less, read_label
from flawline.errors import DataError

HEIGHT, WIDTH = 40, 60
TRUTH = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
TRUTH[10:22, 20:41] = True
WHITE = TRUTH.astype(np.uint8) * 255
FULL, BLACK = np.full_like(WHITE, 255), np.zeros_like(WHITE)


def palette(numbers: NDArray[np.uint8], *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(numbers, mode="L").copy()
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([value for colour in colours for value in colour])
    return image


def stack(*planes: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.dstack(planes))


KINDS: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "white on black": (lambda: Image.fromarray(WHITE), "png"),
    "0 and 1": (lambda: Image.fromarray(WHITE // 255), "bmp"),
    "class numbers": (lambda: Image.fromarray(TRUTH * np.arange(1, WIDTH + 1, dtype=np.uint8)), "png"),
    "one bit": (lambda: Image.fromarray(TRUTH), "tif"),
    "16 bits, 1": (lambda: Image.fromarray(TRUTH.astype(np.uint16)), "png"),
    "16 bits, full": (lambda: Image.fromarray(TRUTH.astype(np.uint16) * 65535), "tif"),
    "32 bits": (lambda: Image.fromarray(TRUTH.astype(np.int32)), "tif"),
    "fractions": (lambda: Image.fromarray(TRUTH.astype(np.float32)), "tif"),
    "dark blue": (lambda: stack(BLACK, BLACK, WHITE // 255), "png"),
    "alpha of red": (lambda: stack(FULL, BLACK, BLACK, WHITE), "png"),
    "alpha all opaque": (lambda: stack(WHITE, WHITE, WHITE, FULL), "png"),
    "white behind transparency": (lambda: stack(FULL, FULL, FULL, WHITE), "png"),
    "grey and alpha": (lambda: stack(FULL, WHITE), "png"),
    "palette": (lambda: palette(WHITE // 255, (0, 0, 0), (128, 0, 0)), "png"),
    "palette, black last": (lambda: palette(1 - WHITE // 255, (255, 255, 255), (0, 0, 0)), "png"),
    "palette of faint colours": (lambda: palette(WHITE // 255, (0, 0, 0), (0, 0, 1)), "png"),
    "JPEG": (lambda: Image.fromarray(WHITE), "jpg"),
    "JPEG in a TIFF": (lambda: Image.fromarray(WHITE), "jpeg.tif"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_black_is_marked(tmp_path: Path, kind: str) -> None:
    make, suffix = KINDS[kind]
    path = tmp_path / f"mask.{suffix}"
    options = {"jpg": {"quality": 60}, "jpeg.tif": {"compression": "jpeg", "quality": 60}}.get(suffix, {})
    make().save(path, **options)
    np.testing.assert_array_equal(read_label(path), TRUTH)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_black_mask_marks_nothing(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(BLACK).save(tmp_path / f"mask.{suffix}")
    assert not read_label(tmp_path / f"mask.{suffix}").any()


@pytest.mark.parametrize(
    ("make", "suffix", "message"),
    [
        (lambda: Image.fromarray(WHITE // 3), "jpg", "lossy file .* write masks as PNG"),
        (
            lambda: Image.fromarray(
                np.maximum(WHITE, 100 * (np.indices(TRUTH.shape)[0] > 24)).astype(np.uint8)
            ),
            "jpg",
            "more grey than",
        ),
        (lambda: stack(BLACK, BLACK, BLACK, WHITE), "png", "all that is not transparent is black"),
        (
            lambda: palette(WHITE // 255, (9, 9, 9), (9, 9, 9)),
            "png",
            "its palette shows all its numbers in one",
        ),
        (
            lambda: palette(WHITE // 255, (0, 0, 0), (0, 0, 0)),
            "png",
            "its palette shows all its numbers in one",
        ),
    ],
)
def test_what_cannot_be_told_is_refused(
    tmp_path: Path, make: Callable[[], Image.Image], suffix: str, message: str
) -> None:
    path = tmp_path / f"mask.{suffix}"
    make().save(path)
    with pytest.raises(DataError, match=rf"mask\.{suffix}: the mask is ambiguous: .*{message}"):
        read_label(path)


def test_a_mask_is_turned_as_its_own_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(WHITE).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "mask.png", exif=exif)
    np.testing.assert_array_equal(read_label(tmp_path / "mask.png"), TRUTH)


@pytest.mark.parametrize("label", [~TRUTH, np.ones_like(TRUTH)], ids=["inverted", "all white"])
def test_white_where_good_is_refused(label: NDArray[np.bool_]) -> None:
    with pytest.raises(
        DataError, match=r"x\.png: the mask is ambiguous: it (is white all over|marks 9\d% of)"
    ):
        check_marks_less(label, Path("x.png"))


def test_a_large_defect_is_none_of_these() -> None:
    large = np.ones((HEIGHT, WIDTH), dtype=np.bool_)
    large[:, :12] = False
    check_marks_less(large, Path("x.png"))
    check_marks_less(TRUTH, Path("x.png"))


class TestShape:
    def mask(self, folder: Path, width: int, height: int) -> Sample:
        Image.fromarray(WHITE).resize((width, height), Image.Resampling.NEAREST).save(folder / "mask.png")
        return Sample(folder / "x.png", "dent", folder / "mask.png", "x", "test")

    @pytest.mark.parametrize("factor", [0.5, 0.333, 2])
    def test_a_scaled_mask_is_brought_to_its_picture(self, tmp_path: Path, factor: float) -> None:
        sample = self.mask(tmp_path, round(WIDTH * factor), round(HEIGHT * factor))
        read = sample.read_mask(HEIGHT, WIDTH)
        assert abs(int(read.sum()) - int(TRUTH.sum())) < 0.2 * TRUTH.sum()

    @pytest.mark.parametrize(("width", "height"), [(40, 40), (60, 60), (HEIGHT, WIDTH)])
    def test_another_shape_is_refused(self, tmp_path: Path, width: int, height: int) -> None:
        told = "turned as EXIF says" if width < height else "draw it on the whole picture"
        with pytest.raises(
            DataError, match=rf"mask\.png: .* it has {width}x{height} pixels and its picture 60x40.*{told}"
        ):
            self.mask(tmp_path, width, height).read_mask(HEIGHT, WIDTH)


def test_ambiguous_masks_are_found_before_anything_is_learnt(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("good/1", "good/2", "defect/1", "defect/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(256, size=(HEIGHT, WIDTH), dtype=np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    (tmp_path / "masks").mkdir()
    for number in (1, 2):
        Image.fromarray(255 - WHITE).save(tmp_path / f"masks/{number}.png")
    with pytest.raises(
        DataError, match=r"2 of the 6 .*masks/1\.png, .*masks/2\.png: the mask is .* as if white were good"
    ):
        load_dataset(f"folder:{tmp_path}")
