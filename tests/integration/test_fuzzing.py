"""A short fuzzing of a real server: every kind of fault has its share of a few seconds; see `make fuzz`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import faults
import odd_pictures

from flawline.errors import PictureError
from flawline.scoring.picture import decode

pytestmark = pytest.mark.server

SECONDS = 2.5
GROWTH_MB = 1000
"""Room for the largest answers, which Triton keeps; that it does not go on, only a long run can show."""


@pytest.mark.timeout(180)
def test_no_bad_request_is_lost_or_harms_another() -> None:
    rows = faults.measure(SECONDS, start=1)
    assert [row["fault"] for row in rows] == list(faults.FAULTS)
    for row in rows:
        assert int(str(row["sent"])) > 0, row
        assert row["sent"] == int(str(row["answered"])) + int(str(row["refused"])), row
        assert (row["lost"], row["neighbours_lost"], row["crashes"]) == (0, 0, 0), row
        assert float(str(row["memory_growth_mb"])) < GROWTH_MB, row


def said_of(content: bytes) -> str:
    """Why a file is refused; empty where it is read."""
    try:
        pixels = decode(content)
    except PictureError as error:
        return str(error)
    assert pixels.shape in ((40, 56, 3), (56, 40, 3), (16, 60_000, 3), (16, 16, 3))
    return ""


def test_a_picture_of_any_mode_is_read_or_refused_in_one_sentence() -> None:
    for name, content in odd_pictures.good_pictures().items():
        said = said_of(content)
        assert bool(said) is bool({"F", "I"} & set(name.split())), f"{name}: {said}"  # of no known range
        assert "\n" not in said


def test_what_is_no_picture_is_refused_in_one_sentence() -> None:
    for name, content in (odd_pictures.no_pictures() | odd_pictures.bombs()).items():
        if "black" in name:  # a second to decode; the server above does it
            continue
        said = said_of(content)
        assert bool(said) is ("60000x16" not in name), f"{name}: {said}"
        assert "\n" not in said
