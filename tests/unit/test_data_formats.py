"""Pictures and masks as cameras and labelling tools write them, read through Sample."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flawline.data import Sample
from flawline.errors import DataError

HEIGHT, WIDTH = 20, 48
GREY = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
COLOUR = np.stack([GREY, np.flip(GREY, axis=1), np.full_like(GREY, 40)], axis=2)
GREY_RGB = np.repeat(GREY[:, :, None], 3, axis=2)
DEEP = np.tile(np.linspace(0, 65535, WIDTH).astype(np.uint16), (HEIGHT, 1))


def sample(path: Path, mask: Path | None = None) -> Sample:
    return Sample(path, "dent" if mask else "good", mask, path.stem, "test")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
@pytest.mark.parametrize(("pixels", "expected"), [(GREY, GREY_RGB), (COLOUR, COLOUR)])
def test_eight_bits(
    tmp_path: Path, suffix: str, pixels: NDArray[np.uint8], expected: NDArray[np.uint8]
) -> None:
    path = tmp_path / f"p.{suffix}"
    Image.fromarray(pixels).save(path)
    read = sample(path).read_image()
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_keeps_the_upper_eight(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p.{suffix}"
    Image.fromarray(DEEP).save(path)
    np.testing.assert_array_equal(sample(path).read_image(), np.repeat((DEEP >> 8)[:, :, None], 3, axis=2))


def test_sixteen_bit_big_endian_tiff(tmp_path: Path) -> None:
    path = tmp_path / "p.tif"
    Image.frombytes("I;16B", (WIDTH, HEIGHT), DEEP.astype(">u2").tobytes()).save(path)
    np.testing.assert_array_equal(sample(path).read_image()[:, :, 1], DEEP >> 8)


def test_transparency_is_dropped(tmp_path: Path) -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 7, dtype=np.uint8)
    Image.fromarray(np.concatenate([COLOUR, alpha], axis=2)).save(tmp_path / "p.png")
    np.testing.assert_array_equal(sample(tmp_path / "p.png").read_image(), COLOUR)


def test_palette_is_resolved(tmp_path: Path) -> None:
    indices = (np.arange(WIDTH * HEIGHT) % 3).astype(np.uint8)
    image = Image.frombytes("P", (WIDTH, HEIGHT), indices.tobytes())
    image.putpalette([200, 10, 20, 30, 180, 40, 5, 6, 250])
    image.save(tmp_path / "p.png")
    read = sample(tmp_path / "p.png").read_image()
    assert read.shape == (HEIGHT, WIDTH, 3)
    assert read[0, :3].tolist() == [[200, 10, 20], [30, 180, 40], [5, 6, 250]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_exif_orientation_turns_the_picture(
    tmp_path: Path, suffix: str, orientation: int, turns: int
) -> None:
    path = tmp_path / f"p.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOUR).save(path, exif=exif, quality=95, subsampling=0)
    read = sample(path).read_image()
    expected = np.rot90(COLOUR, turns)
    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).mean() < 4


def test_sixteen_bit_picture_is_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(DEEP).save(tmp_path / "p.png", exif=exif)
    np.testing.assert_array_equal(sample(tmp_path / "p.png").read_image()[:, :, 0], np.rot90(DEEP >> 8, -1))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n broken"])
def test_an_unreadable_picture_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.png: .*repair or remove the file"):
        sample(path).read_image()


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.png"
    Image.fromarray(COLOUR).save(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"half\.png: .*truncated"):
        sample(path).read_image()


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB", "RGBA", "class numbers"])
def test_masks_of_any_kind_are_binary(tmp_path: Path, mode: str) -> None:
    truth = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    truth[5:9, 30:41] = True
    if mode == "I;16":
        image = Image.fromarray(truth.astype(np.uint16) * 255)
    elif mode == "class numbers":
        image = Image.fromarray(truth.astype(np.uint8) * 3)
    else:
        image = Image.fromarray(truth.astype(np.uint8) * 255).convert(mode)
    image.save(tmp_path / "mask.png")
    read = sample(tmp_path / "p.png", tmp_path / "mask.png").read_mask(HEIGHT, WIDTH)
    np.testing.assert_array_equal(read, truth)


def test_a_smaller_mask_is_brought_to_the_picture(tmp_path: Path) -> None:
    small = np.zeros((HEIGHT // 2, WIDTH // 2), dtype=np.uint8)
    small[2:4, 5:10] = 255
    Image.fromarray(small).save(tmp_path / "mask.png")
    read = sample(tmp_path / "p.png", tmp_path / "mask.png").read_mask(HEIGHT, WIDTH)
    np.testing.assert_array_equal(read, np.kron(small, np.ones((2, 2))) > 0)


def test_an_unreadable_mask_is_named(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(b"no mask")
    with pytest.raises(DataError, match=r"mask\.png: the mask cannot be read"):
        sample(tmp_path / "p.png", tmp_path / "mask.png").read_mask(HEIGHT, WIDTH)
