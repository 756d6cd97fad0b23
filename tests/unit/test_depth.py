"""Pictures of more than eight bits a channel: read right or refused, and the line sees their depth."""

import io
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from small_lines import draw_line, small_recipe, write_teacher

from flawline.data import Dataset, load_dataset
from flawline.data.depth import at_bits, with_bits_of_line, with_learnt_bits
from flawline.data.squares import Squares
from flawline.detectors.fitted import FittedLine
from flawline.errors import DataError, PictureError
from flawline.jobs.evaluate import check_holdout
from flawline.jobs.fit import fit
from flawline.scoring.picture import decode, held_bits, in_eight_bits, upright_size
from flawline.scoring.windows import WindowSettings, frame
from flawline_client.overlay import open_picture

Wide = NDArray[np.uint16]


def wide_picture(height: int = 24, width: int = 40) -> Wide:
    return np.random.default_rng(0).integers(0, 4096, (height, width, 3)).astype(np.uint16)


def stored(values: NDArray[Any], suffix: str = ".png") -> bytes:
    """A file of RGB or grey values."""
    done, content = cv2.imencode(suffix, values[:, :, ::-1] if values.shape[2:] == (3,) else values)
    assert done
    return content.tobytes()


def with_tag(content: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF file, one number of which says something else."""
    changed = bytearray(content)
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", content, entry)[0] == tag:
            struct.pack_into("<H", changed, entry + 8, value)
            return bytes(changed)
    msg = f"no tag {tag}"
    raise AssertionError(msg)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_the_depth_is_kept(suffix: str, kind: str, tmp_path: Path) -> None:
    values = wide_picture()
    if kind == "grey":
        values = np.repeat(values[:, :, :1], 3, axis=2)
    content = stored(values[:, :, 0] if kind == "grey" else values, suffix)
    (tmp_path / "picture").write_bytes(content)
    assert held_bits(tmp_path / "picture") == 16
    found = decode(content, 12)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(
        decode(stored(values[:, :, 0] * 16 if kind == "grey" else values * 16, suffix)), values >> 4
    )
    shown = in_eight_bits(found, 12)
    assert np.abs(shown - values / 16.0588).max() <= 0.51


def test_a_line_of_more_bits_refuses_a_file_of_eight() -> None:
    with pytest.raises(PictureError, match="eight bits a channel, and this line learnt"):
        decode(stored((wide_picture() >> 4).astype(np.uint8)), 12)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_a_line_of_eight_bits_refuses_what_it_could_not_see(suffix: str) -> None:
    with pytest.raises(
        PictureError, match=r"of 65535, so that its upper eight bits, .* show next to nothing"
    ):
        decode(stored(wide_picture() % 4000, suffix))


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize(
    ("written", "words"),
    [
        (lambda values: with_tag(stored(values, ".tiff"), 284, 2), "planes of their own"),
        (
            lambda values: with_tag(stored(np.dstack((values, values[:, :, :1])), ".tiff"), 262, 5),
            "neither grey with black",
        ),
    ],
    ids=["planar", "CMYK"],
)
def test_colour_that_would_be_garbled_is_refused(
    written: Callable[[Wide], bytes], words: str, bits: int
) -> None:
    with pytest.raises(PictureError, match=words):
        decode(written(wide_picture()), bits)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((20, 20), 7, np.int32), "signed or complex values|32 bits a channel"),
        (np.full((20, 20), 0.5, np.float32), "floating-point values"),
    ],
)
def test_values_whose_range_nobody_knows_are_refused(values: NDArray[Any], words: str) -> None:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    with pytest.raises(PictureError, match=words):
        decode(file.getvalue())


def test_white_at_zero_is_refused_in_sixteen_bits() -> None:
    with pytest.raises(PictureError, match="neither grey with black at zero"):
        decode(with_tag(stored(wide_picture()[:, :, 0], ".tiff"), 262, 0))


def test_a_damaged_wide_file_is_refused() -> None:
    for suffix in (".png", ".tiff"):
        content = stored(wide_picture(60, 60), suffix)
        for bits in (8, 12):
            with pytest.raises(PictureError, match=r"damaged or truncated|not a JPEG"):
                decode(content[: len(content) // 2], bits)


@pytest.mark.parametrize("deep", [False, True])
def test_of_several_pages_the_largest_is_taken(deep: bool, tmp_path: Path) -> None:
    largest = wide_picture(40, 60)
    pages = [largest[:20, :20], largest, largest[:40, :59]]
    path = tmp_path / "pages.tif"
    if deep:
        assert cv2.imwritemulti(str(path), [page[:, :, ::-1] for page in pages])
    else:
        thumbnail, *others = (Image.fromarray((page >> 4).astype(np.uint8)) for page in pages)
        thumbnail.save(path, save_all=True, append_images=others)
    assert upright_size(path) == (60, 40)
    found = decode(path.read_bytes(), 12 if deep else 8)
    np.testing.assert_array_equal(found, largest if deep else largest >> 4)
    assert open_picture(path).size == (60, 40)


def test_a_file_of_very_many_pages_is_refused() -> None:
    page = Image.fromarray(np.zeros((20, 20), np.uint8))
    file = io.BytesIO()
    page.save(file, "TIFF", save_all=True, append_images=[page] * 64)
    with pytest.raises(PictureError, match="more than 64 pages; send the picture alone"):
        decode(file.getvalue())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["grey", "colour", "eight"])
def test_wide_files_are_turned_as_others_are(orientation: int, kind: str, tmp_path: Path) -> None:
    values = wide_picture(20, 30)
    narrow = (values >> 4).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned, plain = io.BytesIO(), io.BytesIO()
    Image.fromarray(narrow).save(turned, "PNG", exif=exif)
    Image.fromarray(narrow).save(plain, "PNG", exif=Image.Exif())
    expected = decode(turned.getvalue())
    if kind == "eight":
        path = tmp_path / "turned.tif"
        Image.fromarray(narrow).save(path, "TIFF", exif=exif)
        np.testing.assert_array_equal(decode(path.read_bytes()), expected)
        assert upright_size(path) == expected.shape[1::-1]
        return
    # The same note of the orientation, before the pixels of a wide file.
    marked, wide = turned.getvalue(), stored(values if kind == "colour" else values[:, :, 0])
    place = marked.index(b"eXIf") - 4
    chunk = marked[place : place + 12 + struct.unpack(">I", marked[place : place + 4])[0]]
    header = 8 + 25
    found = decode(wide[:header] + chunk + wide[header:], 12)
    if kind == "grey":
        expected = np.repeat(expected[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(found >> 4, expected)


def test_people_see_wide_pictures_in_their_own_range() -> None:
    values = wide_picture()
    for picture in (values, stored(values[:, :, 0]), stored(values)):
        assert np.asarray(open_picture(picture)).max() > 235


def wide_line(folder: Path, factor: int, normals: int = 16) -> tuple[Dataset, Dataset]:
    """A generated line of eight bits, and the same with every value multiplied, in files of 16 bits."""
    folder.mkdir(exist_ok=True)
    narrow = draw_line(folder / "narrow", normals=normals, test_normals=4, test_defects=4, contrast=3.0)
    samples = []
    for number, sample in enumerate(narrow.samples):
        path = folder / f"{number:03}.png"
        path.write_bytes(stored(sample.read_image().astype(np.uint16) * factor))
        samples.append(replace(sample, image=path))
    return narrow, Dataset("wide", folder, tuple(samples))


def test_bits_are_learnt_from_good_training_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["image,mask,class,group,split"]
    for number in range(12):
        values = np.full((20, 20), 900 + number, np.uint16)
        if number == 11:
            values[0, 0] = 60_000  # a defect that shines tells nothing of the camera's range
        (tmp_path / f"{number}.png").write_bytes(stored(values))
        rows.append(
            f"{number}.png,,{'glare' if number == 11 else 'good'},,{'test' if number > 9 else 'train'}"
        )
    (tmp_path / "split.csv").write_text("\n".join(rows))
    dataset = load_dataset(f"folder:{tmp_path}")
    assert {sample.bits for sample in dataset.samples} == {10}
    said = capsys.readouterr().err
    assert "brightest value of the 10 good training pictures is 909" in said.replace("\n", " ")
    assert "read as 10 bits, 1023 is white." in said.replace("\n", " ")


def test_very_dark_pictures_are_said_to_be_dark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, wide = wide_line(tmp_path, 1)
    for sample in wide.samples:
        sample.image.write_bytes(stored(np.full((20, 20), 30, np.uint16)))
    assert with_learnt_bits(wide).bits == 9
    assert "dark" in capsys.readouterr().err


def test_eight_and_more_bits_do_not_make_one_line(tmp_path: Path) -> None:
    narrow, wide = wide_line(tmp_path, 16)
    mixed = replace(wide, samples=(*wide.samples[:-1], narrow.samples[-1]))
    with pytest.raises(
        DataError, match=r"more than eight bits a channel, such as .* and 1 of eight, such as"
    ):
        with_learnt_bits(mixed)


def learnt(dataset: Dataset, folder: Path, detector: str, **changes: object) -> FittedLine:
    quick = {"synthesis": "cutpaste", "training": {"steps": 2, "pairs": 2, "crop": 64}}
    recipe = small_recipe(str(folder / "teacher"), even_scale=False, sacd=quick, **changes)
    return fit(detector, dataset, recipe, seed=0)


@pytest.mark.parametrize(
    ("detector", "changes"),
    [
        ("exdd", {}),
        ("exdd", {"windows": {"scale": 1.5}, "exdd": {"overexposed": True}}),
        ("exdd", {"even_exposure": False, "windows": {"scale": 1.5}}),
        ("sacd", {}),
    ],
    ids=["banks", "windows, overexposed copies", "windows in uneven light", "a student"],
)
def test_a_line_says_of_wide_pictures_what_it_says_of_the_same_in_eight_bits(
    tmp_path: Path, detector: str, changes: dict[str, object]
) -> None:
    write_teacher(tmp_path)
    narrow, wide = wide_line(tmp_path, 257)  # 65,535 is white as 255 is
    lines = [
        learnt(data, tmp_path, detector, **changes)
        for data in (narrow, replace(wide, samples=at_bits(wide.samples, 16)))
    ]
    assert [line.settings.bits for line in lines] == [8, 16]
    for sample, other in zip(narrow.test, wide.test, strict=True):
        (one,), (two,) = (
            line.inspect([each.read_values()])
            for line, each in zip(lines, (sample, *at_bits([other], 16)), strict=True)
        )
        # Where resizing rounds one and not the other, banks may take another patch for the same.
        assert two.score == pytest.approx(one.score, rel=0.1)


def test_a_dark_line_of_twelve_bits_finds_what_eight_bits_hide(tmp_path: Path) -> None:
    write_teacher(tmp_path)
    narrow, wide = wide_line(tmp_path, 1)  # of 255, in files of 16 bits: their upper eight bits are empty
    found = with_learnt_bits(wide)
    assert found.bits == 9
    line = learnt(found, tmp_path, "exdd")
    reference = learnt(narrow, tmp_path, "exdd")
    for sample, other in zip(found.test, narrow.test, strict=True):
        assert line.inspect([sample.read_values()])[0].score == pytest.approx(
            reference.inspect([other.read_values()])[0].score, rel=0.2
        )


def test_squares_of_wide_pictures_keep_fractions_of_grey_levels(tmp_path: Path) -> None:
    _, wide = wide_line(tmp_path, 16)
    square = Squares(at_bits(wide.train_normals, 12), 128)[0]
    assert square.values.dtype == np.uint16
    assert square.pixels.dtype == np.uint8
    assert np.abs(square.pixels - square.values * (255 / 4095)).max() <= 0.51


def test_windows_even_the_exposure_of_wide_pictures_as_of_others() -> None:
    narrow = np.random.default_rng(3).integers(30, 90, (100, 150, 3)).astype(np.uint8)
    settings = WindowSettings(scale=1.0, step=32, align=32, even_exposure=True, fill="mean")
    one, _ = frame(narrow, 64, settings)
    two, _ = frame(narrow.astype(np.uint16) * 257, 64, settings, 16)
    assert two.dtype == np.uint16
    assert np.abs(two / 257 - one).max() <= 0.51


def test_a_hold_out_of_another_kind_is_refused_before_anything_is_learnt(tmp_path: Path) -> None:
    narrow, wide = wide_line(tmp_path, 16)
    for dataset, others, words in (
        (with_learnt_bits(wide), narrow, "has eight bits a channel, and the line looks at more than eight"),
        (narrow, wide, "has more than eight bits a channel, and the line looks at eight"),
    ):
        with pytest.raises(DataError, match=rf"of the hold-out {words}"):
            check_holdout(dataset, others.test[:2], small_recipe("builtin"))
    ignoring = small_recipe("builtin", ignore=[[[0, 0], [20, 0], [20, 20]]])
    cut = tmp_path / "cut.png"
    Image.fromarray(narrow.test[0].read_image()[:, 1:]).save(cut)
    with pytest.raises(DataError, match=r"the mask of regions to ignore: is for .*cut\.png has 127x128"):
        check_holdout(narrow, [replace(narrow.test[0], image=cut)], ignoring)


def test_pictures_to_calibrate_with_are_read_as_the_line_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, wide = wide_line(tmp_path, 1)
    assert with_bits_of_line(wide, 12).bits == 12
    assert "read as" not in capsys.readouterr().err
    _, bright = wide_line(tmp_path / "bright", 200)
    with pytest.raises(DataError, match="the line's white is 4095, so that they would be mostly white"):
        with_bits_of_line(bright, 12)
