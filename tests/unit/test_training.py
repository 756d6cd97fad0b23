"""The training loop, its checkpoints and the budget of time that a build's trainings share."""

import math
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from flawline.errors import ArtefactError, DataError
from flawline.training import Budget, Training, TrainingState, follow, freeze_statistics, loop, train
from flawline.training import state as state_module

IDENTITY = {"seed": 0, "recipe": {"size": 64, "kinds": (1, 2)}, "pictures": "a" * 64}


class Toy:
    """A linear network that learns to double its input, and a running mean of its weights."""

    def __init__(self, **changes: object) -> None:
        torch.manual_seed(0)
        self.network, self.head, self.mean = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.optimiser = torch.optim.AdamW(
            [{"params": list(self.network.parameters())}, {"params": list(self.head.parameters())}]
        )
        modules = {"weight": self.network, "head": self.head, "mean": self.mean}
        self.state = TrainingState(modules, self.optimiser, {**IDENTITY, **changes})
        self.seen: list[tuple[int, float]] = []

    def step(self, number: int, done: float) -> Tensor:
        self.seen.append((number, done))
        batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        return (self.head(self.network(batch)) - 2 * batch).square().mean()

    @torch.no_grad()
    def follow(self, steps: int) -> None:
        for kept, now in zip(self.mean.parameters(), self.network.parameters(), strict=True):
            kept.lerp_(now, 1 / steps)

    def train(self, **options: object) -> Training:
        settings = {
            "steps": 8,
            "rates": lambda _number, done: (0.1 * (1 - done), 0.2 * (1 - done)),
            "clip": (1.0, None),
            "after": self.follow,
            **options,
        }
        return train(self.step, self.state, **settings)  # type: ignore[arg-type]

    def weights(self) -> list[Tensor]:
        modules = self.state.modules.values()
        return [value.clone() for module in modules for value in module.state_dict().values()]


def same(one: Toy, other: Toy) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.weights(), other.weights(), strict=True))


def test_steps_rates_and_progress_go_from_start_to_end() -> None:
    toy, told, rates = Toy(), [], []

    def watched(number: int, done: float) -> tuple[float, float]:
        rates.append((number, done))
        return 0.1, 0.0

    before = toy.head.weight.clone()
    done = toy.train(rates=watched, progress=lambda *each: told.append(each))
    assert toy.seen == rates == [(number, number / 8) for number in range(8)]
    assert [share for share, _ in told] == [(number + 1) / 8 for number in range(8)]
    assert (done.steps, done.seconds_before) == (8, 0)
    assert done.losses == tuple(round(loss, 5) for _, loss in told)
    assert torch.equal(toy.head.weight, before), "its group has the rate 0"


def test_losses_are_means_of_tenths() -> None:
    values = []
    done = Toy().train(steps=40, progress=lambda _share, loss: values.append(loss))
    assert done.losses == tuple(round(sum(values[i : i + 4]) / 4, 5) for i in range(0, 40, 4))


def test_gradients_are_clipped_group_by_group() -> None:
    toy = Toy()
    norms = []

    def watched(_steps: int) -> None:
        groups = (toy.network, toy.head)
        norms.append([math.hypot(*(float(p.grad.norm()) for p in group.parameters())) for group in groups])

    toy.train(clip=(1e-3, None), after=watched)
    assert all(first == pytest.approx(1e-3, rel=1e-2) and second > 0.1 for first, second in norms)


@pytest.mark.parametrize("stop_at", range(1, 8))
def test_interrupted_anywhere_it_goes_on_to_the_weights_of_one_piece(
    stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    file = tmp_path / "state" / "toy.safetensors"
    whole, halted, resumed = Toy(), Toy(), Toy()
    done = whole.train()

    def interrupt(steps: int) -> None:
        halted.follow(steps)
        if steps == stop_at + 1:  # the weights have changed, the checkpoint is one step behind
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        halted.train(checkpoint=file, after=interrupt)
    rest = resumed.train(checkpoint=file)
    assert resumed.seen == whole.seen[stop_at:]
    assert same(whole, resumed)
    assert (rest.steps, rest.losses) == (8, done.losses)
    assert rest.seconds > rest.seconds_before > 0
    assert [path.name for path in file.parent.iterdir()] == ["toy.safetensors"]


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "toy.safetensors"
    first, again = Toy(), Toy()
    done = first.train(checkpoint=file)
    kept = again.train(checkpoint=file)
    assert not again.seen
    assert same(first, again)
    assert kept == Training(8, done.seconds, done.seconds, done.losses)


def test_checkpoints_are_written_at_intervals_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "toy.safetensors"
    there: list[bool] = []
    Toy().train(checkpoint=file, progress=lambda *_: there.append(file.exists()))
    assert not any(there), "half a minute has not passed"
    assert file.exists()
    file.unlink()
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    there.clear()
    Toy().train(checkpoint=file, progress=lambda *_: there.append(file.exists()))
    assert there == [False] + [True] * 7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 7}, "its seed is 0, now 7;"),
        ({"recipe": {"size": 96, "kinds": (1, 2)}}, r"its recipe\.size is 64, now 96;"),
        ({"recipe": {"size": 64, "kinds": (1, 3)}}, r"its recipe\.kinds is \[1, 2\], now \[1, 3\];"),
        ({"recipe": None}, r'its recipe is \{"kinds": \[1, 2\], "size": 64\}, now null;'),
        ({"pictures": "b" * 64}, "it differs in pictures;"),
        ({"pictures": "b" * 64, "seed": 7}, "its seed is 0, now 7;"),
        ({"teacher": "builtin"}, 'its teacher is missing, now "builtin";'),
        ({"teacher": None}, "its teacher is missing, now null;"),
    ],
)
def test_another_training_s_checkpoint_is_refused_and_kept(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    file = tmp_path / "toy.safetensors"
    Toy().train(checkpoint=file)
    before = file.read_bytes()
    with pytest.raises(
        ArtefactError,
        match=rf"toy\.safetensors is the checkpoint of another training: {words} give another folder, "
        "or remove this file to train anew",
    ):
        Toy(**changes).train(checkpoint=file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "metadata", "weights", "optimiser", "losses"])
def test_a_damaged_checkpoint_is_refused_in_one_sentence(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "toy.safetensors"
    Toy().train(checkpoint=file)
    with safe_open(file, framework="pt") as opened:
        tensors, metadata = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "foreign":
        save_file({"x": torch.zeros(1)}, file)
    elif damage == "metadata":
        save_file(tensors, file, metadata={**metadata, "progress": "{"})
    else:
        part = {"weights": "weight/bias", "optimiser": "optimiser/0/step", "losses": "losses"}[damage]
        tensors.pop(part)
        if damage == "optimiser":
            tensors["optimiser/none/step"] = torch.zeros(1)
        save_file(tensors, file, metadata=metadata)
    words = r"toy\.safetensors is damaged \(.+\); remove it to train anew"
    with pytest.raises(ArtefactError, match=words) as refused:
        Toy().train(checkpoint=file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("fails", ["folder", "library"])
def test_a_checkpoint_that_cannot_be_written_does_not_end_a_training(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        msg = "Error while serializing: I/O error: No space left on device (os error 28)"
        raise SafetensorError(msg)

    whole, toy, file = Toy(), Toy(), tmp_path / "toy.safetensors"
    whole.train()
    if fails == "library":
        monkeypatch.setattr(state_module, "save_file", refuse)
    else:
        file = Path("/proc/flawline/toy.safetensors")
    toy.train(checkpoint=file)
    assert same(whole, toy)
    assert f"{file} cannot be written, and this goes on without it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(value: float, tmp_path: Path) -> None:
    toy, file = Toy(), tmp_path / "toy.safetensors"
    before = toy.weights()
    toy.step = lambda _number, _done: toy.network.weight.sum() * value  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"the loss is -?(nan|inf) at step 0; lower the learning rate"):
        toy.train(checkpoint=file)
    assert all(torch.equal(a, b) for a, b in zip(before, toy.weights(), strict=True))
    assert not file.exists()


def clock(monkeypatch: pytest.MonkeyPatch, toy: Toy, seconds: float) -> None:
    """Let every step of `toy` take so many seconds, and nothing else any."""
    now, step = [0.0], toy.step

    def slow(number: int, done: float) -> Tensor:
        now[0] += seconds
        return step(number, done)

    toy.step = slow  # type: ignore[method-assign]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])


def test_a_budget_ends_training_and_counts_earlier_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "toy.safetensors"
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    first, again = Toy(), Toy()
    clock(monkeypatch, first, 1.0)

    def stop(share: float, _loss: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.train(steps=1000, budget=4.0, checkpoint=file, progress=stop)
    clock(monkeypatch, again, 1.0)
    done = again.train(steps=1000, budget=4.0, checkpoint=file)
    assert [share for _, share in again.seen] == [0.5, 0.75], "rates follow the budget"
    assert (done.steps, done.seconds, done.seconds_before) == (4, 4.0, 2.0)


@pytest.mark.parametrize(
    ("steps", "budget", "taken"), [(3, 8.0, 3), (None, 5.0, 5), (100, 0.0, 1), (100, 0.1, 1)]
)
def test_whichever_of_steps_and_budget_ends_first_ends_training(
    steps: int | None, budget: float, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, shares = Toy(), []
    clock(monkeypatch, toy, 1.0)
    assert (
        toy.train(steps=steps, budget=budget, progress=lambda share, _: shares.append(share)).steps == taken
    )
    assert shares[-1] == 1


def test_training_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="give steps or a budget"):
        Toy().train(steps=None)


def test_frozen_statistics_stay_while_weights_learn() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).train()
    freeze_statistics(module)
    module(torch.randn(4, 1, 3, 3))
    assert torch.equal(module[1].running_mean, torch.zeros(2))
    assert module[0].training
    assert module[1].weight.requires_grad


def took(seconds: float) -> Training:
    return Training(steps=1, seconds=seconds, seconds_before=0.0, losses=(1.0,))


def test_shares_are_equal_parts_of_what_is_left() -> None:
    budget = Budget(900, trainings=3)
    assert budget.share() == 300
    budget.spend(took(100))  # it ended by its steps
    assert budget.share() == 400
    budget.spend(took(420))  # the last step took a little longer
    assert budget.share() == 380
    budget.spend(took(380))
    assert budget.share() == 0, "nothing is left for a training that was not planned"


def test_what_is_overdrawn_leaves_a_share_of_nothing() -> None:
    budget = Budget(10, trainings=2)
    budget.spend(took(25))
    assert budget.share() == 0


def test_a_budget_without_limit_sets_none() -> None:
    budget = Budget(None, trainings=2)
    assert budget.share() is None
    budget.spend(took(1e6))
    assert budget.share() is None


def test_a_continued_build_gives_each_training_the_same_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)

    def build(folder: Path, stop_in_second: bool = False) -> list[float | None]:
        budget, shares = Budget(10.0, trainings=2), []
        for name, steps in (("first", 2), ("second", 100)):
            toy = Toy()
            clock(monkeypatch, toy, 1.0)
            shares.append(budget.share())
            halting = stop_in_second and name == "second"

            def stop(share: float, _loss: float, halting: bool = halting) -> None:
                if halting and share > 0.3:
                    raise KeyboardInterrupt

            done = toy.train(steps=steps, budget=budget.share(), checkpoint=folder / name, progress=stop)
            budget.spend(done)
        return [*shares, budget.share()]

    unbroken = build(tmp_path / "unbroken")
    assert unbroken == [5.0, 8.0, 0.0]
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "halted", stop_in_second=True)
    assert build(tmp_path / "halted") == unbroken


@pytest.mark.parametrize(("seconds", "trainings"), [(0, 1), (-1, 1), (math.nan, 1), (5, -1)])
def test_a_budget_of_nothing_is_refused(seconds: float, trainings: int) -> None:
    with pytest.raises(ValueError, match="more than 0 seconds"):
        Budget(seconds, trainings)


def test_the_average_follows_fast_at_first_and_keeps_most_later() -> None:
    average, module = (nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)) for _ in range(2))
    for each, value in ((average, 0.0), (module, 1.0)):
        for tensor in each.state_dict().values():
            tensor.fill_(value)
    follow(average, module, 1, 0.9)
    assert average[0].weight.item() == pytest.approx(9 / 11)
    assert average[1].running_mean.item() == pytest.approx(9 / 11)
    assert average[1].num_batches_tracked.item() == 1
    follow(average, module, 10_000, 0.9)
    assert average[0].weight.item() == pytest.approx(9 / 11 * 0.9 + 0.1)
