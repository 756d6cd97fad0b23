"""The segmenter: what it learns, how training goes on, and that its line is read back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_lines import SIZE, draw_line, small_recipe

from flawline.detectors.fitted import FittedLine
from flawline.detectors.segmenter.config import SegmenterConfig, TuningConfig
from flawline.detectors.segmenter.model import Segmenter
from flawline.detectors.segmenter.part import SegmenterPart
from flawline.detectors.segmenter.tune import tune
from flawline.detectors.students.crops import Crops
from flawline.jobs.evaluate import evaluate
from flawline.jobs.fit import fit
from flawline.teachers import Teacher, load_teacher
from flawline.training import Training, loop

SIDE = 96
QUICK = TuningConfig(steps=4, pairs=2, crop=64)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return load_teacher("builtin", layers=(1, 2, 3), even_exposure=True)


def grain(seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(128, 12, (SIDE, SIDE, 1))
    return np.repeat(noise.clip(0, 255), 3, axis=2).astype(np.uint8)


def spot(picture: NDArray[np.uint8], rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A dark square of 12 pixels."""
    mask = np.zeros(picture.shape[:2], dtype=np.bool_)
    top, left = (int(rng.integers(side - 12)) for side in mask.shape)
    mask[top : top + 12, left : left + 12] = True
    changed = picture.copy()
    changed[mask] //= 3
    return changed, mask


def tuned(teacher: Teacher, config: TuningConfig = QUICK, **options: object) -> tuple[Segmenter, Training]:
    normals = torch.from_numpy(np.stack([grain(number) for number in range(2)]))
    network, _ = SegmenterPart.make(SegmenterConfig(width=16), teacher, (0, 1, 2), normals, seed=3)
    assert isinstance(network, Segmenter)
    crops = Crops([grain(n) for n in range(6)], [(SIDE, SIDE)] * 6, spot, teacher, crop=64, seed=0)
    return network, tune(network, crops, config, **options)  # type: ignore[arg-type]


def test_it_marks_what_it_was_taught_and_leaves_the_teacher_alone(teacher: Teacher) -> None:
    before = [each.clone() for each in teacher.backbone.parameters()]
    network, done = tuned(teacher, TuningConfig(steps=60, pairs=4, crop=64, learning_rate=5e-3))
    assert done.losses[-1] < 0.6 * done.losses[0]
    picture, mask = spot(grain(77), np.random.default_rng(5))
    with torch.inference_mode():
        found = network(teacher.prepare(torch.from_numpy(picture)[None]), [])[0]
    assert found.shape == (SIDE // 4, SIDE // 4)
    inside = torch.from_numpy(mask[2::4, 2::4])
    assert found[inside].median() > 3 * found[~inside].max().clamp(max=found[~inside].quantile(0.99))
    assert all(torch.equal(one, two) for one, two in zip(before, teacher.backbone.parameters(), strict=True))
    assert any(
        not torch.equal(one, two.cpu()) for one, two in zip(before, network.body.parameters(), strict=True)
    )


def test_a_right_mark_loses_less_than_wrong_ones(teacher: Teacher) -> None:
    network, _ = tuned(teacher)
    pixels = teacher.prepare(torch.from_numpy(np.stack([grain(0), grain(1)])))
    mask = torch.zeros((2, SIDE, SIDE))
    mask[1, 40:56, 40:56] = 1
    logits = torch.full((2, 24, 24), -4.0)
    losses = {}
    for name, place in {"right": (1, 10), "nothing": None, "aside": (1, 2), "on a good one": (0, 10)}.items():
        marked = logits.clone()
        if place is not None:
            row, start = place
            marked[row, start : start + 4, start : start + 4] = 4.0
        network.logits = lambda _, given=marked: given  # type: ignore[method-assign]
        losses[name] = network.loss(pixels, mask).item()
    assert losses["right"] < min(value for name, value in losses.items() if name != "right")
    assert losses["on a good one"] > losses["nothing"]


def test_an_interrupted_training_goes_on_to_the_same_weights(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1)
    path = tmp_path / "segmenter.safetensors"

    def stop(done: float, _loss: float) -> None:
        if done >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(teacher, checkpoint=path, progress=stop)
    resumed, unbroken = tuned(teacher, checkpoint=path)[0].state_dict(), tuned(teacher)[0].state_dict()
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


def test_a_line_finds_defects_that_it_never_saw_and_is_read_back(tmp_path: Path) -> None:
    data = draw_line(
        tmp_path, family="woven", normals=36, test_normals=8, test_defects=12, train_defects=0, contrast=2.0
    )
    training = {"steps": 60, "pairs": 4, "crop": 64, "learning_rate": 0.005}
    recipe = small_recipe("builtin", segmenter={"width": 16, "training": training})
    fitted = fit("segmenter", data, recipe, seed=0)
    result = evaluate(fitted, data.test).result()
    assert result.image_auroc is not None
    assert result.image_auroc > 0.8
    assert "segmenter, 60 steps" in fitted.model.parts[0].statements["Segmenter"]
    part = fitted.model.parts[0]
    part.save(tmp_path)
    loaded = SegmenterPart.load(part.config, part.facts(fitted.shapes()), tmp_path)
    assert isinstance(fitted, FittedLine)
    pixels = torch.randn((1, 3, SIZE, SIZE))
    with torch.inference_mode():
        torch.testing.assert_close(loaded.module(pixels, []), part.module(pixels, []))
