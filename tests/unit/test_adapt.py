"""Adaptation of a teacher to a line."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from small_lines import write_teacher
from transformers import Dinov2Backbone, Dinov2Config

from flawline.errors import ArtefactError
from flawline.teachers import PatchFeatures, Teacher, load_teacher
from flawline.teachers.adapt import AdaptConfig, _Crops, adapt
from flawline.teachers.generator import Dice
from flawline.training import loop

SMALL = {"crop": 64, "normals": 2, "tested": 2}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return load_teacher(write_teacher(tmp_path_factory.mktemp("teacher")))


def pictures(count: int = 6, size: int = 96) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    stripes = 120 + 40 * np.sin(np.arange(size) / 3)[None, :, None]
    return [
        np.clip(stripes + rng.normal(0, 6, (size, size, 3)), 0, 255).astype(np.uint8) for _ in range(count)
    ]


def maps(teacher: Teacher) -> list[torch.Tensor]:
    with torch.inference_mode():
        return teacher(torch.from_numpy(np.stack(pictures(2))))


def items(count: int = 6) -> list[str]:
    return [f"item {number // 2}" for number in range(count)]


def test_no_steps_leave_the_teacher_as_it_is(teacher: Teacher) -> None:
    assert adapt(teacher, pictures(), items(), AdaptConfig(steps=0), seed=0) == (teacher, None)


def test_same_seed_same_teacher_and_the_original_stays(teacher: Teacher) -> None:
    before = maps(teacher)
    config = AdaptConfig(steps=3, **SMALL)
    one, same, other = (adapt(teacher, pictures(), items(), config, seed=seed)[0] for seed in (1, 1, 2))
    for first, second, third in zip(maps(one), maps(same), maps(other), strict=True):
        assert torch.equal(first, second)
        assert not torch.equal(first, third)
    for now, then in zip(maps(teacher), before, strict=True):
        assert torch.equal(now, then)
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_an_interrupted_adaptation_goes_on_to_the_same_teacher(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    config, file = AdaptConfig(steps=4, **SMALL), tmp_path / "state" / "teacher.safetensors"
    whole, done = adapt(teacher, pictures(), items(), config, seed=0)
    assert (done.steps, done.seconds_before) == (4, 0)

    def stop(share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(teacher, pictures(), items(), config, seed=0, checkpoint=file, progress=stop)
    steps: list[float] = []
    resumed, rest = adapt(
        teacher, pictures(), items(), config, seed=0, checkpoint=file, progress=steps.append
    )
    assert steps == [0.75, 1.0], "it went on after the second step"
    assert (rest.steps, rest.losses) == (done.steps, done.losses)
    assert rest.seconds > rest.seconds_before > 0
    for one, other in zip(maps(whole), maps(resumed), strict=True):
        assert torch.equal(one, other)
    again, kept = adapt(teacher, pictures(), items(), config, seed=0, checkpoint=file, progress=steps.append)
    assert len(steps) == 2, "a finished adaptation is not repeated"
    assert kept.seconds == kept.seconds_before == rest.seconds
    for one, other in zip(maps(whole), maps(again), strict=True):
        assert torch.equal(one, other)


def test_another_adaptation_s_checkpoint_and_a_damaged_one_are_refused(
    teacher: Teacher, tmp_path: Path
) -> None:
    config, file = AdaptConfig(steps=1, **SMALL), tmp_path / "teacher.safetensors"

    def again(config: AdaptConfig = config, **changes: object) -> None:
        options = {"seed": 0, "checkpoint": file, "identity": {"pictures": "a" * 64}, **changes}
        adapt(teacher, pictures(), items(), config, **options)

    again()
    with pytest.raises(
        ArtefactError, match=r"teacher\.safetensors is .* another training: its seed is 0, now 1"
    ):
        again(seed=1)
    with pytest.raises(ArtefactError, match=r"its adapt\.steps is 1, now 2; give another folder"):
        again(AdaptConfig(steps=2, **SMALL))
    with pytest.raises(ArtefactError, match="another training: it differs in pictures; give another folder"):
        again(identity={"pictures": "b" * 64})
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ArtefactError, match=r"teacher\.safetensors is damaged .*remove it to train anew"):
        again()


def test_a_budget_ends_adaptation_after_one_step_at_least(teacher: Teacher, tmp_path: Path) -> None:
    config, file = AdaptConfig(steps=100_000, **SMALL), tmp_path / "teacher.safetensors"
    shares: list[float] = []
    _, done = adapt(
        teacher,
        pictures(),
        items(),
        config,
        seed=0,
        budget=0.5,
        checkpoint=file,
        progress=shares.append,
    )
    assert 1 <= done.steps == len(shares) < 1000
    assert 0.5 <= done.seconds < 10
    assert shares == sorted(shares)
    assert shares[-1] == 1
    _, more = adapt(teacher, pictures(), items(), config, seed=0, budget=0.5, checkpoint=file)
    assert more.steps == done.steps, "its seconds are used up"
    tuned, one = adapt(teacher, pictures(), items(), config, seed=0, budget=0.0)
    assert one.steps == 1
    assert not torch.equal(maps(tuned)[0], maps(teacher)[0])


def test_adapted_teachers_give_one_more_map_of_marks(teacher: Teacher) -> None:
    adapted = adapt(teacher, pictures(), items(), AdaptConfig(steps=2, **SMALL), seed=0)[0]
    assert adapted.channels == (*teacher.channels, 1)
    *rest, marks = maps(adapted)
    assert [part.shape[1] for part in rest] == list(teacher.channels)
    assert marks.shape == (2, 1, *rest[0].shape[2:])
    without = adapt(teacher, pictures(), items(), AdaptConfig(steps=2, mark_weight=0, **SMALL), seed=0)[0]
    assert without.channels == teacher.channels
    twice = adapt(teacher, pictures(), items(), AdaptConfig(steps=2, mark_weight=2, **SMALL), seed=0)[0]
    torch.testing.assert_close(maps(twice)[-1], 2 * marks)


def test_transformers_single_items_and_small_squares_adapt_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Backbone(config).save_pretrained(tmp_path)
    teacher = load_teacher(f"hf:{tmp_path}")
    adapted = adapt(teacher, pictures(), ["the only one"] * 6, AdaptConfig(steps=2), seed=0)[0]
    assert [part.shape[1] for part in maps(adapted)] == [*teacher.channels, 1]
    assert all(part.isfinite().all() for part in maps(adapted))


def test_tested_crops_are_never_of_the_items_in_the_bank(teacher: Teacher) -> None:
    """Six shots of one part would make every crop find itself in the bank."""
    shades = [np.full((96, 96, 3), 40 * number, np.uint8) for number in range(6)]
    crops = _Crops(shades, items(), load_plain(teacher), AdaptConfig(steps=1, **SMALL))
    for seed in range(10):
        normal, tested, irregular = crops.draw(Dice(seed))
        bank = {round(float(crop.mean()) * 255 / 40) // 2 for crop in normal}
        for crop, where in zip(tested, irregular, strict=True):
            clean = crop.mean(dim=0)[where == 0]
            assert round(float(clean.median()) * 255 / 40) // 2 not in bank


def load_plain(teacher: Teacher) -> Teacher:
    plain = copy.copy(teacher)
    plain.even_exposure = False
    return plain


def test_adaptation_makes_a_blot_stand_out(teacher: Teacher) -> None:
    """After it, a blot on the line's own stripes lies further from the bank than before, compared with clean."""

    def contrast(teacher: Teacher) -> float:
        embed = PatchFeatures()
        shots = pictures(12, 128)
        blotted = shots[0].copy()
        blotted[60:76, 60:76] = blotted[60:76, 60:76] * 0.8
        with torch.inference_mode():
            bank = embed(teacher(torch.from_numpy(np.stack(shots[6:])))).flatten(0, 2)
            clean, marked = embed(teacher(torch.from_numpy(np.stack((shots[0], blotted))))).flatten(1, 2)
        return float(torch.cdist(marked, bank).amin(dim=1).max() / torch.cdist(clean, bank).amin(dim=1).max())

    config = AdaptConfig(steps=40, crop=64, learning_rate=1e-3)
    after = adapt(teacher, pictures(12, 128), items(12), config, seed=0)[0]
    assert contrast(after) > 1.2 * contrast(teacher)


@pytest.mark.parametrize("wrong", [{"crop": 100}, {"steps": -1}, {"learning_rate": 0}, {"speed": 1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        AdaptConfig.model_validate(wrong)
