"""Lines with regions to ignore, on a real server: what lies there changes no answer; other views are refused."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asking import Pixels, encoded, image, pixels, server_of
from PIL import Image
from small_build import BUILTIN, LEARNT, SIZE
from tritonclient.grpc import InferenceServerClient, InferResult
from tritonclient.utils import InferenceServerException

from flawline.artefact.manifest import verify
from flawline.artefact.served import ServedLine
from flawline.data import Dataset
from flawline.data.surfaces import SurfaceOptions, load
from flawline.errors import DataError
from flawline.jobs.build import build
from flawline.jobs.derive import calibrate_line
from flawline.recipe import Recipe
from flawline.repository.publish import live_artefact
from flawline.serving.tritonserver import TritonServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

HEIGHT, WIDTH = 104, 160
DISPLAY = np.s_[:48, 112:]
NAMES = ("SCORE", "P_VALUE", "IS_DEFECT", "ANOMALY_MAP", "MASK", "BOXES")


def flicker(picture: Pixels, seed: int) -> Pixels:
    """Show something else on the display of a picture."""
    shown = picture.copy()
    shown[DISPLAY] = np.random.default_rng(seed).integers(0, 256, (48, 48, 3))
    return shown


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    options = SurfaceOptions(
        size=(HEIGHT, WIDTH), normals=30, test_normals=5, test_defects=5, train_defects=2, contrast=3.0
    )
    root, samples = load(options, cache=folder)
    shown = []
    for number, sample in enumerate(samples):
        path = root / "shown" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(flicker(sample.read_image(), number)).save(path)
        shown.append(replace(sample, image=path))
    return Dataset("display", root, tuple(shown))


@pytest.fixture(scope="module")
def repository(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lines")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[DISPLAY] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    fixed = {
        "size": SIZE,
        "false_alarm": 0.1,
        "ignore": folder / "mask.png",
        "sacd": LEARNT["sacd"],
        **BUILTIN,
    }
    for line, detector in (("banks", "exdd"), ("pair", "sacd+exdd")):
        built = build(detector, data, line, repository=folder / "models", recipe=Recipe.model_validate(fixed))
        assert built.manifest.ignored is not None
        assert (built.manifest.ignored.width, built.manifest.ignored.height) == (WIDTH, HEIGHT)
        assert max(fact.decisions_flipped for fact in built.manifest.parity) == 0
    return folder / "models"


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with server_of(repository) as running:
        yield running


def answers(result: InferResult) -> dict[str, np.ndarray]:
    return {name: result.as_numpy(name) for name in NAMES}  # type: ignore[misc]


@pytest.mark.parametrize("line", ["banks", "pair"])
def test_what_is_shown_there_changes_no_answer(
    server: TritonServer, data: Dataset, repository: Path, line: str
) -> None:
    picture = data.test[-1].read_image()
    other = flicker(picture, 99)
    ignored = ServedLine(live_artefact(repository, line), threads=1).rules.ignored
    assert ignored is not None
    with InferenceServerClient(server.grpc_url) as client:
        for model, door in ((line, True), (f"{line}_pixels", False), (f"{line}_fused", True)):
            sent = [image(encoded(each)) if door else pixels(each) for each in (picture, other)]
            one, two = (answers(client.infer(model, [each], client_timeout=60)) for each in sent)
            for name in NAMES:
                np.testing.assert_array_equal(one[name], two[name], err_msg=f"{model} {name}")
            assert one["ANOMALY_MAP"].max() > 0
            assert (one["ANOMALY_MAP"][0][ignored.square] == 0).all()
            assert (one["MASK"][0][ignored.square] == 0).all()


@pytest.mark.parametrize("model", ["banks", "pair", "banks_pixels", "banks_fused"])
def test_another_view_is_refused_naming_both_shapes(server: TritonServer, data: Dataset, model: str) -> None:
    picture = data.test[0].read_image()
    narrow = np.ascontiguousarray(picture[:, :-1])
    send = pixels if model.endswith("_pixels") else lambda each: image(encoded(each))
    message = f"has {WIDTH - 1}x{HEIGHT} pixels, and the mask of regions to ignore is for {WIDTH}x{HEIGHT}"
    with InferenceServerClient(server.grpc_url) as client:
        with pytest.raises(InferenceServerException, match=message) as caught:
            client.infer(model, [send(narrow)], client_timeout=60)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        if not model.endswith("_pixels"):
            with pytest.raises(InferenceServerException, match=f"picture 2 of 2: .*{message}") as caught:
                client.infer(model, [image(encoded(picture), encoded(narrow))], client_timeout=60)
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        assert client.infer(model, [send(picture)], client_timeout=60).as_numpy("SCORE") is not None


def test_a_derived_version_ignores_the_same(data: Dataset, repository: Path, tmp_path: Path) -> None:
    built = verify(live_artefact(repository, "banks"))
    assert built.ignored is not None
    assert calibrate_line(repository, "banks", false_alarm=0.2).manifest.ignored == built.ignored
    wide = []
    for number, sample in enumerate(data.train_normals):
        path = tmp_path / f"{number}.png"
        Image.fromarray(sample.read_image()[:, 1:]).save(path)
        wide.append(replace(sample, image=path))
    with pytest.raises(
        DataError, match=rf"line 'banks': is for pictures of {WIDTH}x{HEIGHT} pixels, and .*0.png"
    ):
        calibrate_line(repository, "banks", dataset=Dataset("wide", tmp_path, tuple(wide)))
