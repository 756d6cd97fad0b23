"""The generator of the built-in teacher's lines, its pretext tasks, and the script that trains it."""

import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flawline.errors import ArtefactError
from flawline.teachers import load_teacher
from flawline.teachers.generator import Dice, draw_episode
from flawline.teachers.generator.camera import photograph
from flawline.teachers.generator.formula import KINDS, Formulas
from flawline.teachers.generator.irregular import plant
from flawline.teachers.generator.structure import Structures
from flawline.teachers.pretexts import PRETEXTS, Bank, Seen, verdicts
from flawline.training import loop

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "build" / "pretrain_teacher.py"
WIDTHS = [4, 6, 8]


def episode_of(seed: int, **options: object):
    dice = Dice(seed)
    return draw_episode(dice, Formulas.draw(dice, 3), normals=2, tested=3, size=48, **options)


def test_episodes_repeat_and_show_lines_that_differ() -> None:
    one, same, other = (episode_of(seed) for seed in (1, 1, 2))
    assert torch.equal(one.normal, same.normal)
    assert torch.equal(one.tested, same.tested)
    assert not torch.equal(one.tested, other.tested)
    assert one.normal.shape == (3, 2, 48, 48, 3)
    assert one.tested.shape == (3, 3, 48, 48, 3)
    assert one.irregular.shape == (3, 3, 48, 48)
    assert one.normal.dtype == torch.uint8
    assert one.relit is None
    relit = episode_of(1, relit=True)
    assert torch.equal(relit.tested, one.tested)
    assert not torch.equal(relit.relit, relit.tested), "the second photograph has another light"


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_every_kind_of_surface_is_standardised_and_its_own(kind: int) -> None:
    dice = Dice(7)
    formulas = Formulas.draw(dice, 400)
    chosen = formulas.chosen(torch.nonzero(formulas.kind == kind)[:6, 0])
    assert len(chosen.kind) == 6
    fields = chosen.surfaces(48, dice)
    assert fields.isfinite().all()
    torch.testing.assert_close(fields.mean(dim=(1, 2)), torch.zeros(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(fields.std(dim=(1, 2)), torch.ones(6), atol=2e-2, rtol=0)
    again = chosen.surfaces(48, dice)
    assert not torch.allclose(fields, again), "two pictures of one line are not the same picture"


def test_irregularities_lie_where_the_mask_says() -> None:
    dice = Dice(3)
    surface = torch.full((64, 3, 48, 48), 0.5) + 0.05 * torch.randn(64, 1, 48, 48)
    planted, mask = plant(surface, torch.randn(64, 48, 48), dice, share=1.0)
    changed = (planted - surface).abs().amax(dim=1)
    assert (mask.flatten(1).amax(dim=1) > 0).float().mean() > 0.9, "nearly every outline lies in its picture"
    assert changed[mask == 0].mean() < 0.1 * changed[mask == 1].mean()
    untouched, empty = plant(surface, torch.randn(64, 48, 48), dice, share=0.0)
    assert torch.equal(untouched, surface)
    assert not empty.any()


def test_bodies_of_a_part_lie_in_the_same_place_in_every_picture_of_a_line() -> None:
    dice = Dice(0)
    structures = Structures.draw(dice, 200)
    steady = torch.nonzero(
        (structures.stray < 0.01) & (structures.band[:, 2] == 0) & structures.step.any(dim=1)
    )
    change = structures.brightness(2, 48, dice).unflatten(0, (200, 2))[steady[:, 0]]
    assert len(change) > 3
    assert (change[:, 0] - change[:, 1]).abs().mean() < 0.2 * change.abs().mean()


def test_photographs_keep_to_the_range_and_differ_in_exposure() -> None:
    flat = torch.full((32, 3, 32, 32), 0.5)
    shots = photograph(flat, Dice(0), torch.ones(32)).float().mean(dim=(1, 2, 3))
    assert shots.max() / shots.min() > 2
    assert photograph(flat, Dice(0), torch.zeros(32)).float().mean(dim=(1, 2, 3)).std() < 1


def test_patches_near_an_irregularity_are_neither_strange_nor_clean() -> None:
    irregular = torch.zeros(1, 32, 32)
    irregular[0, 12:20, 12:20] = 1
    strange, clean = verdicts(irregular, 8)
    assert strange[0, 3:5, 3:5].all()
    assert strange.sum() == 4
    assert not clean[0, 2:6, 2:6].any()
    assert clean.sum() == 64 - 16


def seen_of(maps: list[Tensor], normals: int, formula: Tensor) -> Seen:
    return Seen([m[:, :normals] for m in maps], [m[:, normals:] for m in maps], [], formula)


def test_bank_rewards_features_that_part_irregular_from_normal() -> None:
    episode = episode_of(5)
    torch.manual_seed(0)
    task = Bank(WIDTHS)
    normal = [torch.rand(3, 2, width, 12 // 2**n, 12 // 2**n) for n, width in enumerate(WIDTHS)]
    plain = [torch.rand(3, 3, width, 12 // 2**n, 12 // 2**n) for n, width in enumerate(WIDTHS)]

    def parted(by: float) -> Tensor:
        tested = []
        for part in plain:
            strange, _ = verdicts(episode.irregular, part.shape[-1])
            tested.append(part + by * strange[:, :, None])
        return task(Seen(normal, tested, [], torch.zeros(3, dtype=torch.long)), episode)

    assert parted(3.0) < 0.7 * parted(0.0)


@pytest.mark.parametrize("name", list(PRETEXTS))
def test_every_task_teaches_a_small_network(name: str) -> None:
    """A few steps on one episode lower its loss, and reach every stage that the task looks at."""
    script = pretrain_script()
    torch.manual_seed(0)
    learner = script.Learner(WIDTHS, {name: 1.0}).train()
    dice = Dice(0)
    formula = torch.arange(script.LINES)
    episode = draw_episode(
        dice, Formulas.draw(dice, script.LINES), normals=2, tested=2, size=48, relit=learner.relit
    )
    optimiser = torch.optim.Adam(learner.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = learner.losses(episode, formula)[name]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < losses[0]
    last = learner.backbone.encoder.stages[2].layers[0].layer[0].convolution.weight.grad
    assert F.relu(last.abs()).sum() > 0


def pretrain_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pretrain_teacher", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small_script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = pretrain_script()
    monkeypatch.setattr(script, "LINES", 2)
    monkeypatch.setattr(script, "SIZE", 32)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    return script


SETTINGS = {"budget": 60.0, "seed": 0, "device": torch.device("cpu")}


def learner_of(script: ModuleType) -> torch.nn.Module:
    torch.manual_seed(0)
    return script.Learner(WIDTHS, {"bank": 1.0, "marks": 0.5})


def test_pretraining_goes_on_where_it_stopped_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = small_script(monkeypatch)
    whole, halted, resumed = (learner_of(script) for _ in range(3))
    assert script.pretrain(whole, tmp_path / "whole", steps=6, **SETTINGS) == 6
    original = script.Learner.losses

    def stop_at_four(self: torch.nn.Module, *arguments: object) -> dict[str, Tensor]:
        if getattr(self, "seen_steps", 0) == 4:
            raise KeyboardInterrupt
        self.seen_steps = getattr(self, "seen_steps", 0) + 1
        return original(self, *arguments)

    monkeypatch.setattr(script.Learner, "losses", stop_at_four)
    with pytest.raises(KeyboardInterrupt):
        script.pretrain(halted, tmp_path / "parts", steps=6, **SETTINGS)
    seen = []

    def count(self: torch.nn.Module, *arguments: object) -> dict[str, Tensor]:
        seen.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(script.Learner, "losses", count)
    assert script.pretrain(resumed, tmp_path / "parts", steps=6, **SETTINGS) == 6
    assert len(seen) == 2, "it did not begin anew"
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    script.save_backbone(resumed.backbone, tmp_path / "parts")
    assert not list(tmp_path.rglob("*.tmp"))
    teacher = load_teacher(str(tmp_path / "parts"))
    assert teacher.channels == (6, 8)


def test_a_budget_of_time_ends_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = small_script(monkeypatch)
    short = {**SETTINGS, "budget": 0.5}
    steps = script.pretrain(learner_of(script), tmp_path, steps=None, **short)
    assert 1 <= steps < 1000
    assert script.pretrain(learner_of(script), tmp_path, steps=None, **short) == steps, (
        "its seconds are used up"
    )


def test_another_pretraining_s_checkpoint_and_a_damaged_one_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = small_script(monkeypatch)
    script.pretrain(learner_of(script), tmp_path, steps=1, **SETTINGS)
    with pytest.raises(ArtefactError, match="another training: its seed is 0, now 1; give another folder"):
        script.pretrain(learner_of(script), tmp_path, steps=1, **{**SETTINGS, "seed": 1})
    with pytest.raises(ArtefactError, match=r"its pretexts\.marks is 0\.5, now missing"):
        script.pretrain(script.Learner(WIDTHS, {"bank": 1.0}), tmp_path, steps=1, **SETTINGS)
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:99])
    done = subprocess.run(
        [sys.executable, SCRIPT, "--out", tmp_path, "--steps", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"{file} is damaged" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pretexts", "magic"], "there is no task 'magic'; choose among bank"),
        (["--pretexts", "bank=much"], "a weight is a number"),
        (["--budget", "soon"], "'soon' is no duration"),
        (["--steps", "0"], "at least 1"),
        ([], "config.json is there and was not made by Flawline; choose another --out"),
    ],
)
def test_bad_options_are_refused_in_words(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "config.json").write_text("a teacher of others")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert end.value.code == 2
    assert words in capsys.readouterr().err
