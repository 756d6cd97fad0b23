"""Pictures in the model square: read once as long as the memory suffices, and never otherwise than from disk."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flawline.data.sample import GOOD, Sample
from flawline.data.squares import Square, Squares, cover, fingerprint
from flawline.errors import DataError
from flawline.scoring.picture import Geometry, letterbox

SIZE = 32
BYTES = 3 * SIZE * SIZE
"""Memory of one square."""


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Six pictures of different shades and widths."""
    found = []
    for number in range(6):
        pixels = np.full((40, 30 + 4 * number, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        found.append(Sample(tmp_path / f"{number}.png", GOOD, None, str(number), "train"))
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was read."""
    counted: Counter[str] = Counter()
    read_values = Sample.read_values

    def counting(sample: Sample) -> NDArray[np.uint8]:
        counted[sample.image.stem] += 1
        return read_values(sample)

    monkeypatch.setattr(Sample, "read_values", counting)
    return counted


def test_squares_are_the_letterboxed_pictures(samples: list[Sample]) -> None:
    squares = Squares(samples, SIZE)
    assert len(squares) == 6
    for sample, square in zip(samples, squares, strict=True):
        pixels, geometry = letterbox(sample.read_image(), SIZE)
        np.testing.assert_array_equal(square.pixels, pixels)
        assert square.geometry == geometry
        assert square.extent == (geometry.inner_height, geometry.inner_width)


def test_each_file_is_read_once_and_not_before_it_is_asked_for(
    samples: list[Sample], reads: Counter[str]
) -> None:
    squares = Squares(samples, SIZE)
    assert not reads
    assert squares[2] is squares[2]
    assert reads == {"2": 1}
    for _ in range(3):
        assert len(list(squares)) == len(squares[1:]) + 1 == 6
    assert reads == dict.fromkeys("012345", 1)


def test_beyond_the_memory_they_are_read_again(samples: list[Sample], reads: Counter[str]) -> None:
    squares = Squares(samples, SIZE, keep_bytes=2 * BYTES + 1)
    first, again = list(squares), list(squares)
    assert reads == {"0": 1, "1": 1, "2": 2, "3": 2, "4": 2, "5": 2}, "two were kept"
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    nothing = Squares(samples, SIZE, keep_bytes=BYTES - 1)
    assert nothing[0] is not nothing[0]


def test_places_and_slices_are_those_of_a_list(samples: list[Sample]) -> None:
    squares, rows = Squares(samples, SIZE), list(range(6))
    assert squares[-1] is squares[5]
    for part in (slice(None), slice(1, 4), slice(-2, None), slice(None, None, -2), slice(4, 99), slice(3, 1)):
        assert [id(square) for square in squares[part]] == [id(squares[row]) for row in rows[part]]
    for beyond in (6, -7):
        with pytest.raises(IndexError):
            squares[beyond]


def test_chosen_rows_share_what_was_read(samples: list[Sample], reads: Counter[str]) -> None:
    squares = Squares(samples, SIZE)
    chosen, others = squares.chosen([4, 1, 3]), squares.chosen([1, 0])
    assert (len(chosen), chosen.size) == (3, SIZE)
    assert [sample.image.stem for sample in chosen.samples] == ["4", "1", "3"]
    assert [id(square) for square in chosen] == [id(squares[row]) for row in (4, 1, 3)]
    assert [id(square) for square in chosen[1:]] == [id(squares[row]) for row in (1, 3)]
    assert chosen[-1] is squares[3]
    assert others[0] is chosen[1]
    assert reads == {"4": 1, "1": 1, "3": 1}, "the one that nothing asked for was not read"


def test_a_file_that_cannot_be_read_is_named(samples: list[Sample]) -> None:
    samples[3].image.write_bytes(b"no picture")
    squares = Squares(samples, SIZE)
    assert squares[2].pixels.shape == (SIZE, SIZE, 3)
    with pytest.raises(DataError, match=r"3\.png"):
        squares[3]


def test_fingerprints_follow_pixels_and_order(samples: list[Sample]) -> None:
    squares = Squares(samples, SIZE)
    first = fingerprint(squares)
    assert first == fingerprint(list(Squares(samples, SIZE, keep_bytes=0)))
    assert first != fingerprint(squares[::-1])
    changed = squares[5].pixels.copy()
    changed[0, 0, 0] += 1
    assert first != fingerprint([*squares[:5], Square(changed, squares[5].geometry)])


def test_a_mask_covers_shares_of_patches() -> None:
    """A picture twice as wide as high fills the upper half: 4 x 2 patches of 16 x 16 of its pixels."""
    mask = np.zeros((32, 64), np.bool_)
    mask[0:16, 0:16] = True
    mask[16:24, 32:48] = True
    mask[31, 63] = True
    covered = cover(mask, Geometry.fit(64, 32, SIZE), (4, 4))
    assert covered.dtype == np.float32
    expected = np.zeros((4, 4))
    expected[0, 0], expected[1, 2], expected[1, 3] = 1, 0.5, 1 / 256
    np.testing.assert_allclose(covered, expected, atol=1e-6)
