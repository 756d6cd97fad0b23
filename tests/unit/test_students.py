"""Students of sacd and ddpm_ast: what they learn, how training is kept, continued and refused."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flawline.detectors.ddpm_ast.config import DDPMASTConfig
from flawline.detectors.ddpm_ast.model import FarHead, Head, focal
from flawline.detectors.part import PARTS
from flawline.detectors.sacd.config import SACDConfig
from flawline.detectors.sacd.model import SACD, FeaCali
from flawline.detectors.students.blocks import cosine_distance, covered, summed
from flawline.detectors.students.config import StudentConfig
from flawline.detectors.students.crops import BEYOND, Crops
from flawline.detectors.students.part import MapsOf, StudentPart
from flawline.detectors.students.train import TrainingConfig, train_student
from flawline.errors import ArtefactError, DataError
from flawline.scoring.picture import letterbox
from flawline.teachers import Teacher, load_teacher
from flawline.training import Training, loop

SIZE = 96
QUICK = TrainingConfig(steps=6, pairs=2, crop=64)
CONFIGS: tuple[StudentConfig, ...] = (SACDConfig(), DDPMASTConfig(width=8))
FAR = DDPMASTConfig(width=8, far=True)
COSINE: tuple[StudentConfig, ...] = (SACDConfig(distance="cosine"), DDPMASTConfig(width=8, distance="cosine"))


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return load_teacher("builtin", layers=(1, 2, 3), even_exposure=True)


def grain(seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(128, 12, (SIZE, SIZE, 1))
    return np.repeat(noise.clip(0, 255), 3, axis=2).astype(np.uint8)


def blotch(
    picture: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A dark square of 12 pixels."""
    mask = np.zeros(picture.shape[:2], dtype=np.bool_)
    top, left = (int(rng.integers(side - 12)) for side in mask.shape)
    mask[top : top + 12, left : left + 12] = True
    changed = picture.copy()
    changed[mask] //= 3
    return changed, mask


NORMALS = torch.from_numpy(np.stack([grain(number) for number in range(4)]))


def crops_of(teacher: Teacher, *, extent: int = SIZE, crop: int = 64, seed: int = 0) -> Crops:
    pictures = [letterbox(grain(number)[:, :extent], SIZE)[0] for number in range(6)]
    return Crops(pictures, [(SIZE, extent)] * 6, blotch, teacher, crop=crop, seed=seed)


def make_student(
    config: StudentConfig, teacher: Teacher, maps: Sequence[int] = (0, 1, 2), *, seed: int = 3
) -> nn.Module:
    """An untrained student of the detector whose settings these are."""
    (kind,) = (PARTS.get(name) for name in PARTS.names() if type(config) is PARTS.get(name).Config)
    assert issubclass(kind, StudentPart)
    return kind.make(config, teacher, maps, NORMALS, seed=seed)[0]


def fitted(
    teacher: Teacher, config: StudentConfig, settings: TrainingConfig = QUICK, **options: object
) -> tuple[nn.Module, Training]:
    student = make_student(config, teacher)
    done = train_student(student, MapsOf(teacher, (0, 1, 2)), crops_of(teacher), settings, **options)  # type: ignore[arg-type]
    return student, done


def test_crops_are_filled_as_the_squares_that_will_be_judged(teacher: Teacher) -> None:
    """Narrow pictures: what a crop shows beside them is alike in both twins, and no defect."""
    picture = grain(0)[:, :24]
    for fill in ("mean", "reflection"):
        crops = Crops(
            [np.pad(picture, ((0, 0), (0, SIZE - 24), (0, 0)))],
            [(SIZE, 24)],
            blotch,
            teacher,
            crop=64,
            seed=0,
            fill=fill,
        )
        for _, clean, twin, mask in crops.pairs(0, 6):
            beside = clean[:, 24 + 8 :]
            if fill == "mean":
                assert (beside == np.rint(picture.mean((0, 1)))).all()
                np.testing.assert_array_equal(twin[:, 24 + 8 :], beside)
                assert not mask[:, 24 + 8 :].any()
            else:
                assert beside.std() > 5


@pytest.mark.parametrize(
    "config", [*CONFIGS, COSINE[0], FAR], ids=["sacd", "ddpm_ast", "sacd-cosine", "ddpm_ast-far"]
)
def test_a_trained_student_disagrees_where_the_defect_is(teacher: Teacher, config: StudentConfig) -> None:
    student, done = fitted(teacher, config, TrainingConfig(steps=60, pairs=4, crop=64))
    assert done.losses[-1] < 0.6 * done.losses[0]
    changed, mask = blotch(grain(77), np.random.default_rng(5))
    with torch.inference_mode():
        pixels = teacher.prepare(torch.from_numpy(np.stack([grain(77), changed])))
        clean, spoiled = student(pixels, teacher.maps(pixels))
    assert clean.shape == (SIZE // 4, SIZE // 4)
    assert float(clean.min()) >= 0
    inside = covered(torch.from_numpy(mask)[None].float(), spoiled.shape)[0] > 0.5
    assert float(spoiled[inside].mean()) > 1.5 * float(spoiled[~inside].mean())
    assert float(spoiled.max()) > float(clean.max())


@pytest.mark.parametrize(
    "config", [*CONFIGS, *COSINE, FAR, DDPMASTConfig(head=False), DDPMASTConfig(symmetric=True)]
)
def test_maps_of_one_stride_are_taken_as_well(config: StudentConfig) -> None:
    """A vision transformer's stages all have the same grid."""

    class Flat:
        mean = torch.zeros(1)

        def __call__(self, pictures: Tensor) -> list[Tensor]:
            return [torch.randn(len(pictures), 24, 6, 6) for _ in range(3)]

    student = make_student(config, Flat()).eval()  # type: ignore[arg-type]
    maps = Flat()(torch.zeros(2, SIZE, SIZE, 3))
    assert student(torch.randn(2, 3, SIZE, SIZE), maps).shape == (2, 6, 6)
    assert torch.isfinite(student.loss(torch.randn(2, 3, SIZE, SIZE), maps, maps, torch.ones(2, SIZE, SIZE)))


def test_feacali_adds_to_what_it_gets_and_depth_0_is_nothing() -> None:
    maps = torch.randn(2, 16, 5, 5)
    assert torch.equal(FeaCali(16, 0)(maps), maps)
    assert not list(FeaCali(16, 0).parameters())
    module = FeaCali(16, 2).eval()
    widths = [layer.out_channels for layer in module.hourglass if isinstance(layer, torch.nn.Conv2d)]
    assert widths == [8, 4, 8, 16]
    torch.testing.assert_close(module(maps), maps + module.hourglass(maps))


def test_alpha_weighs_the_contrast(teacher: Teacher) -> None:
    batch = crops_of(teacher).draw(0, 3)
    clean, corrupted = teacher.maps(batch.clean), teacher.maps(batch.corrupted)

    def loss(alpha: float) -> float:
        student = make_student(SACDConfig(alpha=alpha), teacher)
        assert isinstance(student, SACD)
        return float(student.loss(batch.corrupted, clean, corrupted, batch.mask).detach())

    none, some, twice = loss(0.0), loss(0.5), loss(1.0)
    assert some > none
    assert twice - none == pytest.approx(2 * (some - none), rel=1e-3)


def test_distances_and_losses_by_hand() -> None:
    first = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    second = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1)
    assert float(cosine_distance(first, second)) == pytest.approx(1 - 0.5**0.5)
    coarse = torch.full((1, 2, 2), 0.25)
    torch.testing.assert_close(summed([torch.ones(1, 4, 4), coarse]), torch.full((1, 4, 4), 1.25))
    half = torch.zeros(1, 1)
    assert float(focal(half, torch.ones(1, 1), 2.0)) == pytest.approx(-np.log(0.5) * 0.25)


def test_pairs_differ_only_under_the_mask_which_the_filling_mirrors(teacher: Teacher) -> None:
    batch = crops_of(teacher, extent=40).draw(2, 5)
    differs = (batch.clean != batch.corrupted).any(dim=1)
    assert torch.equal(differs, batch.mask > 0)
    assert batch.mask.any()
    for part in (batch.clean, batch.corrupted, batch.mask):
        assert torch.equal(part[..., 40:], part[..., 16:40].flip(-1)), "filled as the model square is"
    again = crops_of(teacher, extent=40).draw(2, 5)
    assert torch.equal(batch.corrupted, again.corrupted)
    assert not torch.equal(batch.corrupted, crops_of(teacher, extent=40).draw(3, 5).corrupted)
    # Exposure is that of the whole clean picture, not of the crop or its twin.
    whole = crops_of(teacher, crop=SIZE)
    row = int(np.random.default_rng((0, 4)).integers(6, size=1)[0])
    expected = teacher.prepare(torch.from_numpy(grain(row))[None])
    torch.testing.assert_close(whole.draw(4, 1).clean, expected)


def test_crops_at_a_border_show_a_little_of_the_filling(teacher: Teacher) -> None:
    # A picture's right border is where two neighbouring columns are the same: the filling reflects it.
    clean = crops_of(teacher, extent=SIZE - 32, crop=64).draw(0, 200).clean
    seams = (clean[..., 1:] == clean[..., :-1]).all(dim=(1, 2))
    shown = 63 - seams[seams.any(dim=1)].int().argmax(dim=1)
    assert 20 < len(shown) < 150, "as often at a border as in the middle"
    assert int(shown.max()) == 64 // BEYOND
    whole = crops_of(teacher, extent=SIZE, crop=64).draw(0, 200).clean
    assert not (whole[..., 1:] == whole[..., :-1]).all(dim=(1, 2)).any(), "nothing is filled here"


@pytest.mark.parametrize("config", CONFIGS, ids=["sacd", "ddpm_ast"])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    teacher: Teacher, config: StudentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    whole, done = fitted(teacher, config)

    def stop(share: float, _loss: float) -> None:
        if share >= 0.5:
            raise KeyboardInterrupt

    file = tmp_path / "state" / "student.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fitted(teacher, config, checkpoint=file, progress=stop)
    steps: list[float] = []
    resumed, rest = fitted(
        teacher, config, checkpoint=file, progress=lambda share, _loss: steps.append(share)
    )
    assert len(steps) < QUICK.steps, "it did not begin anew"
    assert (rest.steps, rest.losses) == (done.steps, done.losses)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert not list(file.parent.glob(".*")), "no unfinished file is left"


def test_the_head_leaves_channels_out_while_it_learns_and_none_after(teacher: Teacher) -> None:
    network = make_student(DDPMASTConfig(width=8, dropout=0.5), teacher, (0, 1))
    pixels = teacher.prepare(NORMALS)
    maps = teacher.maps(pixels)[:2]
    with torch.no_grad():
        network.train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        assert not torch.equal(network(pixels, maps), network(pixels, maps))
        network.eval()
        assert torch.equal(network(pixels, maps), network(pixels, maps))


def test_the_far_head_sees_further_along_a_defect() -> None:
    def reach(head: nn.Module) -> int:
        """Places right of the middle that have a say in it."""
        agreement = torch.randn(1, 6, 65, 65, generator=torch.Generator().manual_seed(0)).requires_grad_()
        head.eval()(agreement)[0, 32, 32].backward()
        assert agreement.grad is not None
        return int(agreement.grad.abs().sum(dim=(0, 1, 2)).nonzero().max()) - 32

    assert reach(Head(6, 8, 0.3)) == 5
    assert reach(FarHead(6, 8, 0.3)) > 15


def test_a_finished_training_is_not_repeated(teacher: Teacher, tmp_path: Path) -> None:
    file = tmp_path / "student.safetensors"
    first, _ = fitted(teacher, SACDConfig(), checkpoint=file)
    calls: list[float] = []
    second, _ = fitted(teacher, SACDConfig(), checkpoint=file, progress=lambda *step: calls.append(step[0]))
    assert not calls
    weights = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_a_budget_ends_training(teacher: Teacher) -> None:
    _, done = fitted(teacher, SACDConfig(), QUICK.model_copy(update={"steps": 100_000}), budget=1.5)
    assert 1 <= done.steps < 1000
    assert 1.5 <= done.seconds < 10


def test_another_training_s_checkpoint_is_refused(teacher: Teacher, tmp_path: Path) -> None:
    file = tmp_path / "student.safetensors"
    fitted(teacher, SACDConfig(), checkpoint=file, identity={"seed": 1, "teacher": "a"})
    with pytest.raises(
        ArtefactError,
        match=r'student\.safetensors is the checkpoint of another training: its teacher is "a", now "b"; give',
    ):
        fitted(teacher, SACDConfig(), checkpoint=file, identity={"seed": 1, "teacher": "b"})
    before = file.read_bytes()
    with pytest.raises(ArtefactError, match=r"its training\.steps is 6, now 9.*remove this file"):
        fitted(
            teacher,
            SACDConfig(),
            QUICK.model_copy(update={"steps": 9}),
            checkpoint=file,
            identity={"seed": 1, "teacher": "a"},
        )
    assert file.read_bytes() == before
    file.write_bytes(before[: len(before) // 2])
    with pytest.raises(ArtefactError, match=r"damaged.*remove it to train anew"):
        fitted(teacher, SACDConfig(), checkpoint=file, identity={"seed": 1, "teacher": "a"})


def test_a_loss_that_is_not_finite_stops_with_a_sentence(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: SACD, *_: object) -> Tensor:
        return next(self.parameters()).sum() * float("nan")

    monkeypatch.setattr(SACD, "loss", broken)
    with pytest.raises(DataError, match="the loss is nan at step 0; lower the learning rate"):
        fitted(teacher, SACDConfig())


@pytest.mark.parametrize("config", CONFIGS, ids=["sacd", "ddpm_ast"])
def test_first_weights_follow_from_the_seed_alone(teacher: Teacher, config: StudentConfig) -> None:
    def weights(seed: int) -> list[Tensor]:
        torch.rand(1)  # chance that was spent elsewhere has no say
        return list(make_student(config, teacher, seed=seed).state_dict().values())

    first = weights(3)
    assert all(torch.equal(*pair) for pair in zip(first, weights(3), strict=True))
    assert not all(torch.equal(*pair) for pair in zip(first, weights(4), strict=True))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SACDConfig(depth=9), r"depth\n.* less than or equal to 4"),
        (lambda: SACDConfig(alpha=-1.0), r"alpha\n.* greater than or equal to 0"),
        (lambda: SACDConfig(weight=-0.1), r"weight\n.* greater than or equal to 0"),
        (lambda: SACDConfig(margins=0.5), r"margins\n.* not permitted"),
        (lambda: DDPMASTConfig(min_cover=0.0), r"min_cover\n.* greater than 0"),
        (lambda: DDPMASTConfig(dropout=1.0), r"dropout\n.* less than 1"),
        (lambda: DDPMASTConfig(head=False, far=True), "far must be false where head is"),
        (lambda: TrainingConfig(crop=65), r"crop\n.* multiple of 32"),
        (lambda: TrainingConfig(steps=0), r"steps\n.* greater than or equal to 1"),
        (lambda: TrainingConfig(learning_rate=0.0), r"learning_rate\n.* greater than 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
