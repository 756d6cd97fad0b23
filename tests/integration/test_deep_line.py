"""A line of 12-bit pictures on a real server: every door sees their depth, and files of eight bits are refused."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from asking import assert_same, image, pixels, server_of, tensor
from numpy.typing import NDArray
from small_build import LEARNT, SIZE, draw
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from flawline.artefact.served import ServedLine
from flawline.data import Dataset
from flawline.data.depth import with_learnt_bits
from flawline.detectors.fitted import FittedLine
from flawline.jobs.build import build
from flawline.recipe import Recipe
from flawline.repository.publish import live_artefact
from flawline.serving.tritonserver import TritonServer
from flawline_client import InspectionClient

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pictures in the lower 12 of 16 bits: their upper eight hold 16 levels."""
    folder = tmp_path_factory.mktemp("deep")
    drawn = draw("brushed_metal", folder, normals=24, tested=4)
    samples = []
    for number, sample in enumerate(drawn.samples):
        path = folder / f"{number:03}.png"
        values = sample.read_image()[:, : SIZE - 28].astype(np.uint16) * 16
        cv2.imwrite(str(path), values[:, :, ::-1])
        samples.append(replace(sample, image=path, mask=None))
    return with_learnt_bits(Dataset("deep", folder, tuple(samples)))


@pytest.fixture(scope="module")
def repository(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lines")
    recipe = Recipe.model_validate({"size": SIZE, "parity_pictures": 4, **LEARNT})
    built = build("sacd+exdd", data, "deep", repository=folder, recipe=recipe)
    assert built.manifest.bits == 12
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with server_of(repository) as running:
        yield running


def deep_pixels(values: NDArray[np.uint16]) -> object:
    return tensor("PIXELS", values[np.newaxis], "UINT16")


def test_every_door_answers_as_the_trained_line(
    server: TritonServer, data: Dataset, repository: Path
) -> None:
    line = ServedLine(live_artefact(repository, "deep"), threads=1)
    sample = data.test[-1]
    values = sample.read_values()
    assert values.dtype == np.uint16
    (expected,) = line.inspect([values])
    with InferenceServerClient(server.grpc_url) as client:
        for model, sent in (
            ("deep", image(sample.image.read_bytes())),
            ("deep_pixels", deep_pixels(values)),
            ("deep_fused", image(sample.image.read_bytes())),
            ("deep_fused", deep_pixels(values)),
        ):
            assert_same(client.infer(model, [sent], client_timeout=60), 0, expected)
    with InspectionClient(server.grpc_url) as inspecting:
        for picture in (sample.image, values):
            assert inspecting.inspect("deep", picture).score == pytest.approx(expected.score, rel=1e-4)


@pytest.mark.parametrize("model", ["deep", "deep_fused"])
def test_a_file_of_eight_bits_is_refused_and_harms_no_other(
    server: TritonServer, data: Dataset, model: str
) -> None:
    sample = data.test[0]
    done, eight = cv2.imencode(".png", sample.read_image())
    assert done
    with InferenceServerClient(server.grpc_url) as client:
        with pytest.raises(InferenceServerException, match="eight bits a channel, and this line") as caught:
            client.infer(model, [image(eight.tobytes())], client_timeout=60)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        good = client.infer(model, [image(sample.image.read_bytes())], client_timeout=60)
        assert good.as_numpy("SCORE") is not None


@pytest.mark.parametrize("model", ["deep_pixels", "deep_fused"])
def test_pixels_of_eight_bits_are_refused(server: TritonServer, data: Dataset, model: str) -> None:
    with (
        InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException, match=r"UINT8|uint8"),
    ):
        client.infer(model, [pixels(data.test[0].read_image())], client_timeout=60)


def test_a_loaded_line_reads_the_same_depth(data: Dataset, repository: Path) -> None:
    folder = live_artefact(repository, "deep")
    fitted, manifest = FittedLine.load(folder)
    assert manifest.bits == fitted.settings.bits == fitted.model.teacher.bits == 12
    values = [data.test[-1].read_values()]
    (expected,) = ServedLine(folder, threads=1).inspect(values)
    assert fitted.inspect(values)[0].score == pytest.approx(expected.score, rel=1e-4)
