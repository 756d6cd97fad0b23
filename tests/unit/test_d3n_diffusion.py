"""D3N's diffusion side: the chain of its trainings, the repository, what refines the pyramid, and distillation."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_lines import SIZE, draw_line, write_teacher

from flawline.data.squares import Squares
from flawline.detectors.d3n.config import D3NConfig
from flawline.detectors.d3n.diffusion import entries as entries_module
from flawline.detectors.d3n.diffusion.config import DistillationConfig, FusionConfig, ResVAEConfig, UNetConfig
from flawline.detectors.d3n.diffusion.cross_fusion import CrossFusion, Fusion, LowPass, as_changed
from flawline.detectors.d3n.diffusion.entries import LATENTS, RECORD, Entries
from flawline.detectors.d3n.diffusion.features import Features
from flawline.detectors.d3n.diffusion.fgd import Distillation, attention, focus
from flawline.detectors.d3n.diffusion.live import FusedLine
from flawline.detectors.d3n.diffusion.resvae import Codec, ResVAE, train_resvae
from flawline.detectors.d3n.losses import Targets
from flawline.detectors.d3n.part import D3NPart
from flawline.detectors.d3n.pictures import Batch, moved
from flawline.errors import ArtefactError, RecipeError
from flawline.jobs.fit import fit
from flawline.recipe import Recipe, read_recipe
from flawline.synthesis.ddpm import train_ddpm
from flawline.synthesis.method import MethodConfig
from flawline.training import Budget

RECIPE = Path(__file__).parents[2] / "build" / "recipes" / "boxes_diffusion_small.yaml"
DEVICE = torch.device("cpu")


def without(recipe: Recipe, **changes) -> Recipe:
    """The recipe with other settings of d3n."""
    section = {**recipe.part("d3n").model_dump(mode="json"), **changes}
    return Recipe.model_validate({**recipe.model_dump(exclude={"parts"}), "d3n": section})


def fitted(dataset, recipe, checkpoint=None):
    return fit("d3n", dataset, recipe, seed=0, device="cpu", checkpoint=checkpoint, trial=True)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """Data set, recipe, a line that diffusion taught, its checkpoints, and one that it did not teach."""
    folder = tmp_path_factory.mktemp("d3n")
    dataset = draw_line(folder, normals=14, train_defects=12, test_normals=1, test_defects=1)
    recipe = read_recipe(RECIPE, teacher=write_teacher(folder), false_alarm=0.25)
    taught = fitted(dataset, recipe, folder / "checkpoint")
    return dataset, recipe, taught, folder / "checkpoint", fitted(dataset, without(recipe, diffusion=None))


def state_of(fitted_line):
    return fitted_line.model.parts[0].module.state_dict()


def test_the_repository_is_eight_times_smaller_and_says_so(line):
    _, _, taught, checkpoint, _ = line
    folder = checkpoint / "diffusion" / "repository"
    part = taught.model.parts[0]
    facts = part.architecture["diffusion"]["repository"]
    assert facts == json.loads((folder / RECORD).read_text())["facts"]
    assert facts["entries"] == part.architecture["pictures"]
    channels = (16, 16, 16)
    raw = 2 * facts["entries"] * sum(c * (SIZE // s) ** 2 for c, s in zip(channels, (8, 16, 32), strict=True))
    assert facts["raw_bytes"] == raw
    assert (folder / LATENTS).stat().st_size <= raw / 8
    assert np.load(folder / LATENTS, allow_pickle=False).dtype == np.float16
    assert len(facts["error"]) == 3
    assert f"{facts['entries']} entries take" in part.statements["Diffusion"]
    assert "not taught" not in part.statements["Detector"]


def test_distillation_changes_weights_and_leaves_their_names(line):
    _, _, taught, _, baseline = line
    one, other = state_of(taught), state_of(baseline)
    assert list(one) == list(other)
    assert {name: value.shape for name, value in one.items()} == {n: v.shape for n, v in other.items()}
    for room in ("neck", "head"):
        names = [name for name in one if f".{room}." in name and one[name].is_floating_point()]
        assert any(not torch.equal(one[name], other[name]) for name in names), room


def test_an_interrupted_build_goes_on_to_the_same_weights(line, tmp_path, monkeypatch):
    dataset, recipe, taught, _, _ = line
    added = entries_module._added
    filled = []

    def stop(*arguments):
        if len(filled) == 2:
            raise KeyboardInterrupt
        filled.append(1)
        return added(*arguments)

    monkeypatch.setattr(entries_module, "_added", stop)
    with pytest.raises(KeyboardInterrupt):
        fitted(dataset, recipe, tmp_path)
    folder = tmp_path / "diffusion" / "repository"
    record = json.loads((folder / RECORD).read_text())
    assert len(record["done"]) == 2
    assert record["facts"] is None
    filled.clear()
    monkeypatch.setattr(entries_module, "_added", lambda *given: filled.append(1) or added(*given))
    again = fitted(dataset, recipe, tmp_path)
    assert len(filled) == -(-record["entries"] // entries_module.BATCH) - 2
    for name, value in state_of(taught).items():
        assert torch.equal(value, state_of(again)[name]), name
    assert not list(tmp_path.rglob("*.tmp"))


def test_one_budget_is_shared_by_all_trainings(line, monkeypatch):
    dataset, recipe, _, _, _ = line
    config = recipe.part("d3n")
    bare = config.model_copy(update={"diffusion": config.diffusion.model_copy(update={"resvae": None})})
    method = MethodConfig.model_construct()
    counts = [D3NPart.trainings(each, method) for each in (D3NConfig(), bare, config)]
    assert counts == [1, 3, 4]
    long = {"steps": 10**6}
    settings = config.model_dump(mode="json")
    for section in (settings, *(settings["diffusion"][name] for name in ("unet", "resvae"))):
        section |= {"training": {**section["training"], **long}} if "training" in section else long
    shares, share = [], Budget.share
    monkeypatch.setattr(Budget, "share", lambda budget: shares.append(share(budget)) or shares[-1])
    made = fit("d3n", dataset, without(recipe, **settings), seed=0, device="cpu", budget=2.0, trial=True)
    assert len(shares) == 4
    assert shares[0] == 0.5
    part = made.model.parts[0]
    told = part.architecture["diffusion"]["trainings"].values()
    for steps in (*(each["steps"] for each in told), part.training.steps):
        assert 0 < steps < 1000


def test_a_picture_without_an_entry_is_seen_as_one_with_an_entry(line):
    dataset, _, taught, _, _ = line
    part, size = taught.model.parts[0], taught.settings.size
    square = Squares([s for s in dataset.train_defects if s.mask is not None][:1], size)[0].pixels
    given = torch.from_numpy(square[None])
    entry = part.diffusion.entries.maps(np.array([0]), DEVICE)
    for one, other in zip(part.diffusion.live(given), entry, strict=True):
        torch.testing.assert_close(one, other, atol=5e-3, rtol=1e-2)
    fused = FusedLine(taught.model, part.diffusion)
    with torch.inference_mode():
        (boxes,), (light,) = fused(given), taught.model(given)
    assert boxes.shape == light.shape
    assert not torch.equal(boxes, light)
    assert fused.weights > sum(each.numel() for each in part.module.parameters())


def test_without_resvae_entries_are_the_features(line, tmp_path):
    dataset, recipe, _, _, _ = line
    config = recipe.part("d3n").diffusion.model_copy(update={"resvae": None})
    made = fitted(dataset, without(recipe, diffusion=config.model_dump(mode="json")), tmp_path)
    facts = made.model.parts[0].architecture["diffusion"]["repository"]
    assert facts["factor"] == 1.0
    assert max(facts["error"]) < 1e-5
    assert not (tmp_path / "diffusion" / "resvae.safetensors").exists()


@pytest.fixture(scope="module")
def seen():
    """Pictures of stripes, and features of a small diffusion model that has seen them."""
    rng = np.random.default_rng(0)
    waves = 60 * np.sin(np.arange(64) * np.pi / rng.uniform(3, 8, (20, 1, 1)) + rng.uniform(0, 6, (20, 1, 1)))
    grey = np.clip(120 + waves + rng.normal(0, 5, (20, 64, 64)), 0, 255).astype(np.uint8)
    pictures = list(np.repeat(grey[..., None], 3, axis=3))
    config = UNetConfig(channels=(8, 8, 16, 16, 16), steps=20, batch=4).of_size(64)
    features = Features(train_ddpm(pictures, config, seed=0), (50,), seed=0)
    features.measure(pictures)
    return pictures, features


def test_features_follow_from_the_picture_and_one_noise(seen):
    pictures, features = seen
    both = features(torch.from_numpy(np.stack(pictures[:2])))
    alone = features(torch.from_numpy(pictures[1][None]))
    assert [tuple(each.shape) for each in alone] == [(1, 16, 8, 8), (1, 16, 4, 4), (1, 16, 2, 2)]
    for one, other in zip(both, alone, strict=True):
        torch.testing.assert_close(one[1:], other, atol=1e-4, rtol=1e-4)
    every = features(torch.from_numpy(np.stack(pictures)))
    for maps in every:
        torch.testing.assert_close(maps.mean(dim=(0, 2, 3)), torch.zeros(16), atol=0.02, rtol=0)
    model = train_ddpm(pictures, UNetConfig(channels=(8, 8, 16, 16, 16), steps=1).of_size(64), seed=0)
    shared, other_noise, other_level = (
        Features(model, (level,), seed)(torch.from_numpy(pictures[1][None]))[0]
        for level, seed in ((50, 0), (50, 1), (250, 0))
    )
    assert not torch.allclose(shared, other_noise, atol=1e-3)
    assert not torch.allclose(shared, other_level, atol=1e-3)
    joined = Features(model, (50, 250), 0)(torch.from_numpy(pictures[1][None]))[0]
    torch.testing.assert_close(joined, torch.cat((shared, other_level), dim=1))


def test_resvae_learns_to_decode_and_refuses_to_compress_little(seen):
    pictures, features = seen
    config = ResVAEConfig(latent=4, width=16, steps=60, batch=4, learning_rate=1e-2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = ResVAE(features.shapes, config)
    training = train_resvae(codec, features, pictures, config, seed=0, identity={})
    maps = features(torch.from_numpy(np.stack(pictures)))
    for one, other in zip(maps, codec.decode(codec.encode(maps)), strict=True):
        assert float((one - other).square().mean() / one.square().mean()) < 0.7
    assert training.losses[-1] < 0.7 * training.losses[0]
    with pytest.raises(RecipeError, match=r"only 4\.0 times smaller, and at least 8"):
        ResVAE(features.shapes, ResVAEConfig(latent=16, width=16))


def repository(folder, seen, **identity):
    pictures, features = seen
    return Entries.filled(
        folder, Codec(features.shapes), features, pictures, {"made_of": "stripes", **identity}
    )


def test_entries_are_those_of_their_pictures(seen, tmp_path):
    pictures, features = seen
    filled = repository(tmp_path, seen)
    maps = filled.maps(np.array([3, 17]), DEVICE)
    wanted = features(torch.from_numpy(np.stack([pictures[3], pictures[17]])))
    for one, other in zip(maps, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-3)
    assert isinstance(filled.latents, np.memmap)


def test_a_damaged_or_foreign_repository_gets_its_sentence(seen, tmp_path):
    repository(tmp_path, seen)
    with pytest.raises(ArtefactError, match=r"of another training: its made_of is .*; give another folder"):
        repository(tmp_path, seen, made_of="dots")
    latents = bytearray((tmp_path / LATENTS).read_bytes())
    latents[-5] ^= 64
    (tmp_path / LATENTS).write_bytes(latents)
    with pytest.raises(
        ArtefactError, match=r"latents\.npy is damaged .*remove .* to fill the repository anew"
    ):
        repository(tmp_path, seen)
    (tmp_path / LATENTS).write_bytes(latents[:40])
    with pytest.raises(ArtefactError, match="is damaged"):
        repository(tmp_path, seen)
    (tmp_path / RECORD).write_text((tmp_path / RECORD).read_text()[:-50])
    with pytest.raises(ArtefactError, match=r"repository\.json is damaged"):
        repository(tmp_path, seen)


def test_the_filter_takes_noise_and_does_nothing_behind_a_shut_gate():
    torch.manual_seed(0)
    rows = torch.arange(16.0)
    slow = torch.sin(2 * np.pi * rows / 16)[None, None, None].expand(1, 2, 16, 16)
    noise = ((rows[:, None] + rows) % 2 * 2 - 1)[None, None].expand(1, 2, 16, 16)
    filtering = LowPass(2).requires_grad_(requires_grad=False)
    filtering.gate.fill_(-torch.inf)
    assert torch.equal(filtering(slow + noise), slow + noise)
    filtering.gate.fill_(torch.inf)
    torch.testing.assert_close(filtering(slow + noise), slow, atol=0.05, rtol=0)
    filtering.cut.fill_(10.0)
    torch.testing.assert_close(filtering(slow + noise), slow + noise, atol=1e-4, rtol=0)


def test_fusion_behind_a_shut_gate_gives_the_pyramid():
    torch.manual_seed(0)
    pyramid = [torch.randn(2, 16, side, side) for side in (8, 4, 2)]
    features = [torch.randn(2, 8, side, side) for side in (8, 4, 2)]
    config = FusionConfig(width=16, heads=2)
    fusion = Fusion(16, [8, 8, 8], 64, config).requires_grad_(requires_grad=False)
    for one, other in zip(fusion(pyramid, features), pyramid, strict=True):
        assert torch.equal(one, other), "nothing is added before training"
    for level in fusion.levels:
        torch.nn.init.normal_(level.out.weight)
    changed = fusion(pyramid, features)
    assert all(not torch.allclose(one, other) for one, other in zip(changed, pyramid, strict=True))
    for level in fusion.levels:
        level.gate.weight.zero_()
        level.gate.bias.fill_(-torch.inf)
    for one, other in zip(fusion(pyramid, features), pyramid, strict=True):
        assert torch.equal(one, other)
    ungated = CrossFusion(16, 8, config.model_copy(update={"gate": False}))
    assert ungated.gate is None
    assert (
        Fusion(16, [8], 64, config.model_copy(update={"filter": False})).filters[0](features[0])
        is features[0]
    )


def test_attention_finds_its_place():
    """With queries and keys that say nothing but where they are, a cell mostly sees the features at its place."""
    config = FusionConfig(width=32, heads=1, gate=False)
    fusion = CrossFusion(4, 4, config).requires_grad_(requires_grad=False)
    for each in (fusion.query, fusion.key):
        each.weight.zero_()
        each.bias.zero_()
    torch.manual_seed(0)
    fusion.out.weight.copy_(torch.eye(32)[:4, :, None, None])
    fusion.value.weight.copy_(torch.eye(32)[:, :4, None, None])
    fusion.value.bias.zero_()
    features = torch.zeros(1, 4, 16, 16)
    features[0, 0, 4:6, 10:12] = 1.0
    added = fusion(torch.zeros(1, 4, 8, 8), features)[0, 0]
    assert divmod(int(added.argmax()), 8) == (2, 5)


def test_features_follow_their_picture_through_a_change():
    size, stride = 64, 4
    box = np.float32([[16, 24, 36, 40]])
    changes = np.float32([[[-1.25, 0, 70], [0, 1.25, -12]], [[0.75, 0, 5], [0, -0.75, 60]]])
    maps = torch.zeros(2, 1, size // stride, size // stride)
    maps[:, :, 6:10, 4:9] = 1.0
    made = as_changed(maps, changes, size)
    picture = np.zeros((size, size), np.float32)
    picture[24:40, 16:36] = 1.0
    for number, change in enumerate(changes):
        seen = cv2.resize(
            cv2.warpAffine(picture, change, (size, size)), (16, 16), interpolation=cv2.INTER_AREA
        )
        assert np.abs(made[number, 0].numpy() - seen).mean() < 0.03
        rows, columns = np.nonzero(made[number, 0].numpy() > 0.5)
        x1, y1, x2, y2 = moved(box, change, size)[0] / stride
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        np.testing.assert_allclose(found, [x1, y1, x2, y2], atol=0.75)
    same = as_changed(maps, np.tile(np.eye(2, 3, dtype=np.float32), (2, 1, 1)), size)
    torch.testing.assert_close(same, maps)
    exact = as_changed(maps, changes * np.float32(1.07), size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(as_changed(maps, changes * np.float32(1.07), size), exact)


def targets() -> Targets:
    boxes = torch.tensor([[[8.0, 8, 24, 16], [40, 40, 41, 60]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    return Targets(boxes, torch.zeros(2, 2, dtype=torch.long), torch.tensor([[True, True], [False, False]]))


def test_each_box_and_all_that_is_none_weigh_the_same():
    inside, outside = focus(targets(), 8, (8, 8))
    torch.testing.assert_close(inside[0].sum(), torch.tensor(2.0))
    assert inside[0, 0, 1, 1:3].tolist() == [0.5, 0.5]
    assert float(inside[1].sum()) == 0
    torch.testing.assert_close(outside.sum(dim=(1, 2, 3)), torch.ones(2))
    assert not (inside * outside).any()
    places, channels = attention(torch.randn(2, 4, 8, 8), 0.5)
    torch.testing.assert_close(places.mean(dim=(1, 2, 3)), torch.ones(2))
    torch.testing.assert_close(channels.mean(dim=(1, 2, 3)), torch.ones(2))


@pytest.mark.parametrize("name", ["foreground", "background", "attention", "context"])
def test_distillation_loses_where_pyramids_differ(name):
    torch.manual_seed(0)
    taught = [torch.randn(2, 8, side, side) for side in (8, 4, 2)]
    nothing = dict.fromkeys(("foreground", "background", "attention", "context"), 0.0)
    guide = Distillation(8, lambda _batch, _pixels: taught, DistillationConfig(**{**nothing, name: 1.0}))
    batch = Batch(
        np.zeros(2, np.int64), torch.zeros(2, 64, 64, 3), targets(), np.zeros((2, 2, 3), np.float32)
    )
    pixels = torch.zeros(2, 3, 64, 64)
    assert float(guide(batch, pixels, taught).detach()) == 0
    in_box, beside = ([each.clone() for each in taught] for _ in range(2))
    in_box[0][0, :, 1, 1:3] *= 1.5
    beside[0][0, :, 7, 7] *= 1.5
    losses = [float(guide(batch, pixels, each).detach()) for each in (in_box, beside)]
    assert [loss > 0 for loss in losses] == [name != "background", name != "foreground"]


def test_settings_that_cannot_be_are_told_before_work():
    with pytest.raises(ValueError, match="channels: give 5 numbers"):
        UNetConfig(channels=(8, 8))
    with pytest.raises(RecipeError, match=r"cannot see squares of 100 pixels.*give another size"):
        UNetConfig().of_size(100)
    with pytest.raises(ValueError, match=r"noise_levels: give numbers below unet\.timesteps"):
        D3NConfig(diffusion={"noise_levels": [50], "unet": {"timesteps": 50}})
    with pytest.raises(ValueError, match="width: give a multiple of 16"):
        FusionConfig(width=24)
