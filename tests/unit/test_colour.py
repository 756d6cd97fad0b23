"""Memory banks see colour where good pictures show any, and only as much as these leave room for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_lines import SIZE, small_recipe, write_teacher

from flawline.artefact.manifest import PartFacts
from flawline.data import Dataset
from flawline.data.sample import GOOD, Sample
from flawline.data.squares import Square, Squares
from flawline.detectors.exdd.colour import CHANNELS, LEAST, QUANTILE, SHARE, Colour, ColourFacts, balance
from flawline.detectors.exdd.config import ExDDConfig
from flawline.detectors.exdd.part import ExDDPart
from flawline.detectors.line import Line
from flawline.jobs.fit import context_of, load_shared_teacher
from flawline.scoring.picture import Pixels
from flawline.teachers import Teacher

NORMALS = 8
BROWN, REDDER = (130, 100, 70), (150, 92, 60)
"""Of one brightness, as Rec. 601 weighs the channels."""
SPOT = (slice(24, 40), slice(40, 56))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


def grained(colour: tuple[int, int, int], seed: int) -> Pixels:
    grain = np.random.default_rng(seed).normal(0, 6, (SIZE, SIZE, 1))
    return np.clip(np.array(colour) * (1 + grain / 100), 0, 255).round().astype(np.uint8)


def drawn(folder: Path, colour_of: Callable[[int], tuple[int, int, int]]) -> Dataset:
    folder.mkdir()
    samples = []
    for number in range(NORMALS):
        file = folder / f"{number}.png"
        Image.fromarray(grained(colour_of(number), number)).save(file)
        samples.append(Sample(file, GOOD, None, file.stem, "train"))
    return Dataset(folder.name, folder, tuple(samples))


def fitted(dataset: Dataset, teacher: str, **exdd: object) -> tuple[ExDDPart, Teacher]:
    recipe = small_recipe(teacher, positive="none", exdd={"colour": True, **exdd})
    loaded, (layers,) = load_shared_teacher([ExDDPart], recipe)
    normals = Squares(dataset.train_normals, SIZE)
    context = context_of(ExDDPart, layers, loaded, normals, dataset, recipe, seed=0)
    return ExDDPart.fit(ExDDConfig.model_validate(recipe.part("exdd").model_dump()), context), loaded


def embedding(part: ExDDPart, teacher: Teacher, picture: Pixels) -> torch.Tensor:
    return Line(teacher, [part]).eval()(torch.from_numpy(picture)[None])[0][0]


def map_of(part: ExDDPart, teacher: Teacher, picture: Pixels) -> np.ndarray:
    with torch.inference_mode():
        given = {"EMBEDDING": embedding(part, teacher, picture)}
    finding = part.find(given, Square.of(picture, SIZE).geometry)
    assert finding.map is not None
    return finding.map


def test_a_discolouration_of_the_same_brightness_is_found(tmp_path: Path, teacher: str) -> None:
    line = fitted(drawn(tmp_path / "brown", lambda _: BROWN), teacher)
    picture = grained(BROWN, 99)
    spotted = picture.copy()
    spotted[SPOT] = grained(REDDER, 99)[SPOT]
    good, flawed = map_of(*line, picture), map_of(*line, spotted)
    assert flawed.max() > 2 * good.max()
    patch = SIZE // len(flawed)
    row, column = np.unravel_index(flawed.argmax(), flawed.shape)
    assert SPOT[0].start <= row * patch < SPOT[0].stop
    assert SPOT[1].start <= column * patch < SPOT[1].stop


def test_grey_pictures_have_no_colour_to_look_at(tmp_path: Path, teacher: str) -> None:
    """A line of grey pictures is the same, to the bit, as one that was told not to look."""
    dataset = drawn(tmp_path / "grey", lambda _: (100, 100, 100))
    (looking, _), (told, _) = fitted(dataset, teacher), fitted(dataset, teacher, colour=False)
    assert looking.architecture == told.architecture == {}
    assert torch.equal(looking.negative.vectors, told.negative.vectors)
    assert "Colour" not in looking.statements


def test_good_pictures_of_many_colours_leave_little_room_for_it(tmp_path: Path, teacher: str) -> None:
    def scale(name: str, colour_of: Callable[[int], tuple[int, int, int]]) -> float:
        part, _ = fitted(drawn(tmp_path / name, colour_of), teacher)
        return ColourFacts.model_validate(part.architecture["colour"]).scale

    varied = scale("varied", lambda number: (130 + 5 * number, 100, 70))
    assert varied < 0.5 * scale("alike", lambda _: BROWN)


def test_pictures_of_one_item_do_not_tell_how_items_differ(tmp_path: Path, teacher: str) -> None:
    """Pairs of pictures of one colour each: taken for items of their own they would show no difference."""

    def colour_of(number: int) -> tuple[int, int, int]:
        return (130 + 10 * (number // 2), 100, 70)

    alone = drawn(tmp_path / "alone", colour_of)
    pairs = tuple(replace(s, group=str(number // 2)) for number, s in enumerate(alone.samples))
    scales = [
        ColourFacts.model_validate(fitted(each, teacher)[0].architecture["colour"]).scale
        for each in (alone, replace(alone, samples=pairs))
    ]
    assert scales[1] < 0.5 * scales[0]


def test_an_artefact_gives_the_same_colour_again(tmp_path: Path, teacher: str) -> None:
    part, loaded = fitted(drawn(tmp_path / "brown", lambda _: BROWN), teacher)
    part.save(tmp_path)
    facts = part.facts({"EMBEDDING": (1,)})
    again = ExDDPart.load(part.config, PartFacts.model_validate_json(facts.model_dump_json()), tmp_path)
    picture = grained(REDDER, 3)
    assert torch.equal(embedding(again, loaded, picture), embedding(part, loaded, picture))
    assert torch.equal(again.negative.vectors, part.negative.vectors)


def test_colour_is_measured_in_grey_levels() -> None:
    """Whatever a teacher's normalisation is, grey is zero and one grey level of red is one."""
    facts = ColourFacts(mean=(120.0, 110.0, 100.0), std=(60.0, 50.0, 40.0), scale=2.0)
    values = torch.tensor([[90.0, 90.0, 90.0], [91.0, 90.0, 90.0], [90.0, 88.0, 90.0]])
    prepared = (values - torch.tensor(facts.mean)) / torch.tensor(facts.std)
    pixels = prepared[:, :, None, None].expand(-1, -1, 8, 8)
    seen = Colour(facts)(pixels, (2, 2))
    assert seen.shape == (3, 2, 2, CHANNELS)
    expected = torch.tensor([[0.0, 0.0], [2.0, 1.0], [0.0, 4.0]])[:, None, None].expand(3, 2, 2, 2)
    torch.testing.assert_close(seen, expected, atol=1e-3, rtol=0)


def test_the_scale_balances_colour_and_features() -> None:
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(4), 500)
    features = torch.from_numpy(rng.normal(0, 10, (2000, 3))).float()
    colour = torch.from_numpy(rng.normal(0, 40, (2000, CHANNELS))).float()
    scale = balance(torch.cat((features, colour), dim=1), owners, seed=0)
    assert scale is not None
    even = torch.from_numpy(owners % 2 == 0)

    def reach(values: torch.Tensor) -> float:
        nearest = torch.cdist(values[even], values[~even]).min(dim=1).values
        return float(torch.quantile(nearest, QUANTILE))

    assert scale * max(reach(colour), LEAST) == pytest.approx(SHARE * reach(features), rel=0.05)
    renamed = 2 * owners + 7  # numbers need not follow each other
    assert balance(torch.cat((features, colour), dim=1), renamed, seed=0) == scale
    assert balance(torch.cat((features, torch.zeros(2000, CHANNELS)), dim=1), owners, seed=0) is None
