"""A detector of another package, with boxes and classes and no map: built, proved, served, read back."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from asking import image, pixels, server_of
from small_build import BUILTIN, SIZE, draw
from tritonclient.grpc import InferenceServerClient

from flawline import registry
from flawline.artefact.served import ServedLine
from flawline.data import Dataset
from flawline.detectors.fitted import FittedLine
from flawline.detectors.part import PARTS
from flawline.errors import RecipeError
from flawline.jobs.build import build
from flawline.jobs.release import ReleasedLine
from flawline.recipe import Recipe, read_recipe

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

TOY = Path(__file__).parents[1] / "toys" / "toy_detector.py"
LINES = {"alone": "toy", "beside": "toy+exdd"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The toy as pip would install it: a module, and an entry point in its metadata."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(TOY, site)
    metadata = site / "flawline_toy-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: flawline-toy\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[flawline.parts]\ntoy = toy_detector:ToyPart\n")
    sys.path.insert(0, str(site))
    registry.forget()
    yield site
    sys.path.remove(str(site))
    sys.modules.pop("toy_detector", None)
    registry.forget()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw("woven", tmp_path_factory.mktemp("toy") / "data", normals=20, tested=4)


@pytest.fixture(scope="module")
def built(
    installed: Path, data: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ReleasedLine]:
    repository = tmp_path_factory.mktemp("toys") / "repository"
    settings = {**BUILTIN, "size": SIZE, "false_alarm": 0.2, "positive": "none", "toy": {"cells": 4}}
    recipe = Recipe.model_validate(settings)
    return {
        line: build(detector, data, line, repository=repository, recipe=recipe)
        for line, detector in LINES.items()
    }


@pytest.mark.usefixtures("installed")
def test_it_is_found_by_its_entry_point(tmp_path: Path) -> None:
    assert PARTS.names() == ("exdd", "sacd", "ddpm_ast", "d3n", "segmenter", "toy")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("toy: {cells: 4}\n")
    assert read_recipe(recipe).part("toy").model_dump()["cells"] == 4
    recipe.write_text("toy: {cellz: 4}\n")
    with pytest.raises(RecipeError, match=r"toy\.cellz"):
        read_recipe(recipe)


def test_every_path_answers_as_eager_torch(built: dict[str, ReleasedLine]) -> None:
    for released in built.values():
        paths = [fact.path for fact in released.manifest.parity]
        assert paths == ["graph", "target", "ensemble", "ensemble pixels", "fused"]
        assert all(fact.decisions_flipped == 0 for fact in released.manifest.parity)
        assert all(fact.boxes_without_counterpart == 0 for fact in released.manifest.parity)
    assert [part.name for part in built["beside"].manifest.parts] == ["toy", "exdd"]


def test_a_spot_is_boxed_with_its_class_by_every_door(built: dict[str, ReleasedLine], data: Dataset) -> None:
    """A wide picture with a black cell on its left, and one on its right."""
    repository = built["alone"].folder.parents[1]
    picture = data.test[0].read_image()[: SIZE // 2].copy()
    left, right = picture.copy(), picture.copy()
    left[: SIZE // 4, : SIZE // 4] = 0
    right[: SIZE // 4, -SIZE // 4 :] = 0
    with server_of(repository) as server, InferenceServerClient(server.grpc_url) as client:
        for line in LINES:
            for door in ("_pixels", "_fused"):
                for spotted, (x1, x2), side in (
                    (left, (0, SIZE // 4), 0),
                    (right, (3 * SIZE // 4, SIZE), 1),
                ):
                    result = client.infer(f"{line}{door}", [pixels(spotted)])
                    boxes = result.as_numpy("BOXES")[0]
                    spots = [box for box in boxes if box[4] > 0 and (box[0], box[2]) == (x1, x2)]
                    assert [(box[1], box[3], box[5]) for box in spots] == [(0, SIZE // 4, side)], (line, door)
                    assert result.as_numpy("IS_DEFECT").item()
        alone = client.infer("alone", [image(data.test[0].image.read_bytes())])
        beside = client.infer("beside", [image(data.test[0].image.read_bytes())])
    assert not alone.as_numpy("ANOMALY_MAP").any(), "a line without a map has an empty one"
    assert beside.as_numpy("ANOMALY_MAP").any()


def test_its_artefact_is_read_back(built: dict[str, ReleasedLine], data: Dataset) -> None:
    for released in built.values():
        loaded, _ = FittedLine.load(released.folder)
        served = ServedLine(released.folder, threads=1)
        pictures = [sample.read_image() for sample in data.test[:4]]
        for eager, answer in zip(loaded.inspect(pictures), served.inspect(pictures), strict=True):
            assert answer.score == pytest.approx(eager.score, rel=1e-4)
            np.testing.assert_allclose(answer.boxes, eager.boxes, rtol=1e-3, atol=1e-3)


def test_without_its_package_the_artefact_is_served_and_not_loaded(built: dict[str, ReleasedLine]) -> None:
    """A server needs none of a detector's code; eager torch does, and says so."""
    folder = built["alone"].folder
    path = list(sys.path)
    try:
        sys.path[:] = [entry for entry in path if not (Path(entry) / "toy_detector.py").is_file()]
        registry.forget()
        with pytest.raises(RecipeError, match=r"unknown detector 'toy'.*install that package"):
            FittedLine.load(folder)
        ServedLine(folder, threads=1)
    finally:
        sys.path[:] = path
        registry.forget()
