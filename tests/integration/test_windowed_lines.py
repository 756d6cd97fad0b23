"""A line of windows on a real server: a defect of 20 pixels on 4,000 x 3,000, and on a quarter of that."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from asking import Pixels, encoded, image, pixels, server_of
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from flawline.artefact.manifest import Manifest, verify
from flawline.artefact.served import ServedLine
from flawline.cli import app
from flawline.data.surfaces import SurfaceOptions, load, plant_defect, render_surface
from flawline.repository.names import discrepancy
from flawline.repository.publish import live_artefact
from flawline.serving.tritonserver import TritonServer
from flawline_client import InspectionClient
from flawline_client.overlay import draw_overlay

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

WINDOW, WIDTH, HEIGHT = 256, 4000, 3000
DOORS = ("plate", "plate_pixels", "plate_fused")
FOUR_MB = 4 << 20
"""What gRPC takes by default."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student and a segmenter, which have hardly learnt, beside banks, built by the command with `--windows`."""
    folder = tmp_path_factory.mktemp("windows")
    drawn = SurfaceOptions(
        family="cast",
        size=(300, 420),
        normals=14,
        test_normals=3,
        test_defects=3,
        train_defects=0,
        contrast=3.0,
        scale=0.5,
    )
    load(drawn, cache=folder)
    quick = {"weight": 0.05, "training": {"steps": 4, "pairs": 2, "crop": 64}}
    recipe = {
        "sacd": quick,
        "segmenter": quick,
        "windows": {"overlap": 64},
        "synthesis": "cutpaste",
        "synthetic_count": 8,
    }
    recipe["teacher"] = "builtin"  # which sees less of what lies around a patch, so that boxes are tight
    (folder / "quick.yaml").write_text(yaml.safe_dump(recipe))
    root, _ = load(drawn, cache=folder)
    arguments = ["build", "sacd+segmenter+exdd", "--data", f"folder:{root}", "--line", "plate"]
    arguments += ["--repository", str(folder / "repository"), "--recipe", str(folder / "quick.yaml")]
    arguments += ["--windows", "1", "--size", str(WINDOW), "--false-alarm", "0.2"]
    arguments += ["--report", str(folder / "report.html")]
    app(arguments, standalone_mode=False)
    return folder / "repository"


@pytest.fixture(scope="module")
def manifest(repository: Path) -> Manifest:
    return verify(live_artefact(repository, "plate"))


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with server_of(repository) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Iterator[InspectionClient]:
    with InspectionClient(server.grpc_url, timeout=300) as opened:
        yield opened


@pytest.fixture(scope="module")
def flawed() -> tuple[Pixels, tuple[int, int, int, int]]:
    """A picture of 4,000 x 3,000 with one pit, and the x, y, width and height of the pit."""
    plain = render_surface("cast", (HEIGHT, WIDTH), np.random.default_rng(77), line_seed=0)
    rng, top, left = np.random.default_rng(5), 1871, 2600
    place = np.s_[top : top + 256, left : left + 256]
    while True:
        changed, mask = plant_defect(plain[place], "pit", rng, 3.0, 0.8)
        x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
        if max(width, height) == 20 and min(width, height) >= 12:
            break
    plain[place] = changed
    return np.rint(plain * 255).astype(np.uint8), (left + x, top + y, width, height)


@pytest.fixture(scope="module")
def quarter(flawed: tuple[Pixels, tuple[int, int, int, int]]) -> tuple[Pixels, tuple[int, int, int, int]]:
    """A quarter of that picture around the pit: still so large that its map is reduced, and four times as fast."""
    picture, (x, y, width, height) = flawed
    top, left = 1100, 1400
    cut = picture[top : top + HEIGHT // 2, left : left + WIDTH // 2]
    return np.ascontiguousarray(cut), (x - left, y - top, width, height)


def test_the_build_proved_every_path_by_windows(manifest: Manifest) -> None:
    assert manifest.windows is not None
    assert (manifest.size, manifest.windows.scale, manifest.windows.step) == (WINDOW, 1, 192)
    assert [fact.path for fact in manifest.parity] == [
        "graph",
        "target",
        "ensemble",
        "ensemble pixels",
        "fused",
    ]
    for fact in manifest.parity:
        assert (fact.decisions_flipped, fact.boxes_without_counterpart, fact.unexplained_mask_share) == (
            0,
            0,
            0,
        )
        assert fact.max_score_difference < 1e-4
        assert fact.max_map_difference is not None
        assert fact.max_map_difference < 1e-3


def test_the_report_says_that_there_are_windows(repository: Path) -> None:
    told = (repository.parent / "report.html").read_text()
    assert "windows of 256 pixels, at least 64 of which overlap, at 1 pixels for each pixel" in told


@pytest.mark.parametrize(
    ("model", "seen"), [("plate", "quarter"), ("plate_pixels", "quarter"), ("plate_fused", "flawed")]
)
def test_twenty_pixels_of_millions_are_found(
    client: InspectionClient, request: pytest.FixtureRequest, model: str, seen: str
) -> None:
    picture, (x, y, width, height) = request.getfixturevalue(seen)
    full_height, full_width = picture.shape[:2]
    if model == "plate_pixels":
        answer = client.inspect("plate", picture)
    else:
        answer = client.inspect(model, encoded(picture, "BMP"))
    assert answer.is_defect
    x1, y1, x2, y2 = answer.boxes[answer.boxes[:, 4].argmax(), :4].tolist()
    assert x1 <= x + width / 2 <= x2
    assert y1 <= y + height / 2 <= y2
    assert max(x2 - x1, y2 - y1) <= 64, "not much larger than the defect"
    assert answer.anomaly_map.size <= 768 * 1024
    row, column = np.unravel_index(answer.anomaly_map.argmax(), answer.anomaly_map.shape)
    map_height, map_width = answer.anomaly_map.shape
    found = (column * full_width / map_width, row * full_height / map_height)
    assert found == pytest.approx((x + width / 2, y + height / 2), abs=24)
    heat = answer.heat_map(full_width, full_height)
    assert heat.shape == (full_height, full_width)
    assert np.unravel_index(heat.argmax(), heat.shape) == pytest.approx(
        (y + height / 2, x + width / 2), abs=24
    )
    assert draw_overlay(answer, picture).width == min(2048, full_width)


def test_the_answer_fits_into_what_grpc_takes_by_default(
    server: TritonServer, repository: Path, quarter: tuple[Pixels, tuple[int, int, int, int]]
) -> None:
    limit = [("grpc.max_receive_message_length", FOUR_MB), ("grpc.max_send_message_length", -1)]
    with InferenceServerClient(server.grpc_url, channel_args=limit) as plain:
        result = plain.infer("plate_fused", [image(encoded(quarter[0]))], client_timeout=300)
    expected = ServedLine(live_artefact(repository, "plate"), threads=1).inspect([quarter[0]])[0]
    np.testing.assert_allclose(result.as_numpy("ANOMALY_MAP")[0], expected.anomaly_map, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result.as_numpy("BOXES")[0], expected.boxes, rtol=1e-2, atol=1.0)


@pytest.mark.parametrize(("width", "height"), [(300, 200), (900, 60), (100, 80), (256, 256)])
def test_all_doors_answer_alike_on_pictures_of_any_shape(
    client: InspectionClient, flawed: tuple[Pixels, tuple[int, int, int, int]], width: int, height: int
) -> None:
    picture = np.ascontiguousarray(flawed[0][:height, :width])
    answers = [client.inspect("plate", encoded(picture)), client.inspect("plate", picture)]
    answers.append(client.inspect("plate_fused", picture))
    for answer in answers:
        assert answer.anomaly_map.shape == answer.mask.shape == (height, width)
        assert answer.score == pytest.approx(answers[0].score, rel=1e-4)
        np.testing.assert_allclose(answer.anomaly_map, answers[0].anomaly_map, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model", DOORS)
@pytest.mark.parametrize(
    ("shape", "message"),
    [((4097, 8192), "8192x4097 pixels, at this line's scale of 1 more than"), ((15, 300), "at least 16x16")],
)
def test_too_large_and_too_small_pictures_are_refused(
    server: TritonServer, model: str, shape: tuple[int, int], message: str
) -> None:
    blank = np.zeros((*shape, 3), np.uint8)
    sent: InferInput = pixels(blank) if model == "plate_pixels" else image(encoded(blank))
    with (
        InferenceServerClient(server.grpc_url) as plain,
        pytest.raises(InferenceServerException, match=message) as refused,
    ):
        plain.infer(model, [sent], client_timeout=120)
    assert str(refused.value.status()).endswith("INVALID_ARGUMENT")
    assert server.unready_models() == {}


def test_a_request_holds_one_picture(server: TritonServer) -> None:
    blank = np.zeros((300, 300, 3), np.uint8)
    with (
        InferenceServerClient(server.grpc_url) as plain,
        pytest.raises(InferenceServerException, match="batch-size must be <= 1"),
    ):
        plain.infer("plate_pixels", [pixels(blank, blank)], client_timeout=60)


def test_no_native_backend_is_asked_to_cut_windows(repository: Path) -> None:
    model = repository / discrepancy("plate")
    assert (model / "configs" / "native.pbtxt").read_text() == (model / "config.pbtxt").read_text()


def test_a_line_of_windows_is_calibrated_and_compiled_again_by_command(repository: Path) -> None:
    derive = ["--line", "plate", "--repository", str(repository)]
    app(["calibrate", *derive, "--false-alarm", "0.4", "--look-again", "0.6"], standalone_mode=False)
    other = verify(live_artefact(repository, "plate"))
    assert (other.version, other.calibration.asked_false_alarm, other.calibration.look_again) == (2, 0.4, 0.6)
    app(["compile", *derive, "--target", "onnxruntime"], standalone_mode=False)
    again = verify(live_artefact(repository, "plate"))
    assert (again.version, again.target) == (3, "onnxruntime")
    for derived in (other, again):
        assert derived.windows == other.windows is not None
        assert all(fact.decisions_flipped == 0 for fact in derived.parity)
    assert (
        json.loads((live_artefact(repository, "plate") / "settings.json").read_text())["windows"]["step"]
        == 192
    )
