import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flawline_client import Inspection, InspectionError, PictureRejected, Verdict
from flawline_client.inspection import inner_size


def make_inspection(anomaly_map: np.ndarray, **changes) -> Inspection:
    values = {
        "line": "bolts",
        "source": "a.png",
        "score": 2.5,
        "p_value": 0.01,
        "verdict": Verdict.REJECT,
        "is_defect": True,
        "anomaly_map": anomaly_map.astype(np.float32),
        "mask": (anomaly_map >= 1).astype(np.uint8),
        "boxes": np.array([[1, 2, 30, 40, 1.5, 0]], dtype=np.float32),
        "latency_ms": 12.3456,
    }
    return Inspection(**{**values, **changes})


def test_maps_lie_on_the_picture_without_the_padding():
    # 200x100 picture in a 64 square: it takes 64x32, the rest is padding that must never be seen.
    square = np.zeros((64, 64))
    square[:32, 32:] = 1.5  # right half of the picture
    square[32:] = 9.0  # padding
    inspection = make_inspection(square)

    heat, mask = inspection.heat_map(200, 100), inspection.pixel_mask(200, 100)

    assert heat.shape == mask.shape == (100, 200)
    assert heat.dtype == np.float32
    assert mask.dtype == np.bool_
    assert heat.max() == pytest.approx(1.5)
    assert (heat[:, :98] == 0).all()
    assert heat[:, 102:] == pytest.approx(1.5)
    assert mask[:, 100:].all()
    assert not mask[:, :100].any()


def test_a_map_of_another_shape_than_a_square_is_the_picture_alone():
    # 400x300 picture, whose map has been reduced to 40x30.
    reduced = np.zeros((30, 40))
    reduced[15:, 20:] = 1.5

    heat, mask = (make_inspection(reduced).heat_map(400, 300), make_inspection(reduced).pixel_mask(400, 300))

    assert heat.shape == mask.shape == (300, 400)
    assert heat[160:, 210:] == pytest.approx(1.5)
    assert mask[150:, 200:].all()
    assert mask.sum() == 150 * 200


@pytest.mark.parametrize(
    ("width", "height", "inner"),
    [(300, 300, (64, 64)), (100, 200, (32, 64)), (10, 5, (64, 32)), (1000, 3, (64, 1))],
)
def test_inner_size_keeps_the_shape(width, height, inner):
    assert inner_size(width, height, 64) == inner
    assert make_inspection(np.ones((64, 64))).heat_map(width, height).shape == (height, width)


def test_json_holds_all_but_the_arrays():
    written = json.loads(json.dumps(make_inspection(np.zeros((8, 8))).to_json()))

    assert written == {
        "line": "bolts",
        "source": "a.png",
        "score": 2.5,
        "p_value": 0.01,
        "verdict": "reject",
        "is_defect": True,
        "boxes": [{"x1": 1.0, "y1": 2.0, "x2": 30.0, "y2": 40.0, "score": 1.5, "class": 0}],
        "latency_ms": 12.346,
    }


def test_the_answers_are_those_of_the_server():
    decisions = pytest.importorskip("flawline.scoring.verdict").Decision
    assert {each.name: each.value for each in Verdict} == {each.name: each.value for each in decisions}


def test_errors_survive_copies():
    error = PictureRejected("a.png: damaged", "INVALID_ARGUMENT", "a.png")
    for other in (copy.copy(error), copy.deepcopy(error)):
        assert isinstance(other, InspectionError)
        assert (str(other), other.code, other.source) == ("a.png: damaged", "INVALID_ARGUMENT", "a.png")


def test_the_client_needs_nothing_of_training_or_serving():
    program = (
        "import sys, flawline_client, flawline_client.cli\n"
        "print([m for m in ('torch', 'openvino', 'faiss', 'cv2', 'onnxruntime', 'flawline') if m in sys.modules])"
    )
    clients = Path(__file__).parents[2] / "clients"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=clients
    )
    assert done.stdout.strip() == "[]"
