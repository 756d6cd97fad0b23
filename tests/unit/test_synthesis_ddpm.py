"""The diffusion model of a line: resuming, sampling, files, and what is blended in."""

import json

import cv2
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.numpy import load_file

from flawline.data.sample import Dataset, Sample
from flawline.errors import ArtefactError, DataError, OutputError, RecipeError
from flawline.synthesis import Material, read_synthesis
from flawline.synthesis import ddpm as ddpm_module
from flawline.synthesis.base import resized
from flawline.synthesis.ddpm import DDPM, train_ddpm
from flawline.synthesis.ddpm_blend import DDPMBlend, DDPMConfig, generated
from flawline.synthesis.reverse import reverse, visited, widened_step
from flawline.synthesis.synthesize import synthesize_line
from flawline.training import Budget, loop

SMALL = DDPMConfig(side=16, channels=(8, 8), steps=6, batch=2, sampling_steps=4, pool=3)
PAPERS = {"content": "pictures", "partial": None, "widen": (0.1, 0.2), "lines": 0.0}


def small(**changes):
    return DDPMConfig.model_validate({**SMALL.model_dump(), **changes})


def stripes(count=4, side=24, colour=False):
    rng = np.random.default_rng(0)
    waves = 60 * np.sin(np.arange(side) * np.pi / 4 + rng.uniform(0, 6, (count, 1, 1)))
    tones = 110 + waves + rng.normal(0, 4, (count, side, side))
    pictures = np.repeat(tones[..., None], 3, axis=3) * ([1, 0.8, 0.5] if colour else [1, 1, 1])
    return list(np.clip(pictures, 0, 255).astype(np.uint8))


def weights(model):
    return {name: value.numpy() for name, value in model.network.state_dict().items()}


def test_training_goes_on_where_it_stopped_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    whole = train_ddpm(stripes(), SMALL, seed=3)

    def stop(done):
        if done > 0.6:
            raise KeyboardInterrupt

    path = tmp_path / "new" / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_ddpm(stripes(), SMALL, seed=3, checkpoint=path, progress=stop)
    done = []
    resumed = train_ddpm(stripes(), SMALL, seed=3, checkpoint=path, progress=done.append)
    assert len(done) == 3
    assert done[-1] == 1
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(value, weights(resumed)[name], err_msg=name)
    again = train_ddpm(stripes(), SMALL, seed=3, checkpoint=path, progress=done.append)
    assert len(done) == 3, "a finished training is not repeated"
    drawn = (model.departures(3, 0, stripes()) for model in (whole, again))
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_budget_of_time_ends_training_for_good(tmp_path):
    config, path = small(steps=100_000), tmp_path / "checkpoint.safetensors"
    steps = []
    first, again = (
        train_ddpm(stripes(), config, seed=0, checkpoint=path, budget=0.3, progress=steps.append).training
        for _ in range(2)
    )
    assert 0 < len(steps) == first.steps == again.steps < 1000
    assert steps[-1] == 1
    assert again.seconds_before == again.seconds == first.seconds >= 0.3


def test_training_learns_the_texture():
    """Generated stripes run down the picture, as those of the line do, with their brightness and contrast."""
    config = DDPMConfig(
        side=16, channels=(8, 16), steps=150, batch=8, sampling_steps=20, learning_rate=5e-3, **PAPERS
    )
    pictures = stripes()
    made = np.stack(train_ddpm(pictures, config, seed=0).generate(8, 0)).astype(float)
    real = np.stack(pictures).astype(float)
    assert np.abs(made.mean(axis=(0, 1, 2)) - real.mean(axis=(0, 1, 2))).max() < 15
    assert made.std(axis=2).mean() == pytest.approx(real.std(axis=2).mean(), rel=0.4)
    assert made.std(axis=1).mean() < 0.7 * made.std(axis=2).mean()


def test_an_unwidened_step_is_that_of_diffusers():
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", variance_type="fixed_small")
    levels = visited(999, 20)
    assert (len(levels), levels[0], levels[-1]) == (20, 999, 0)
    scheduler.set_timesteps(timesteps=levels)
    extent = (torch.tensor(-1.0), torch.tensor(1.0))
    sample = noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for level, after in zip(levels, [*levels[1:], -1], strict=True):
        noise = torch.tanh(sample + noise)
        theirs = scheduler.step(noise, level, sample, generator=torch.Generator().manual_seed(level))
        fresh = torch.randn(sample.shape, generator=torch.Generator().manual_seed(level))
        ours = widened_step(sample, noise, level, after, scheduler.alphas_cumprod, extent, 0.0, fresh)
        # Where nothing is visited after, diffusers adds no noise by checking for level 0.
        torch.testing.assert_close(ours, theirs.prev_sample, rtol=1e-4, atol=1e-5)
        sample = ours


def test_widening_scales_the_variance_of_every_step_but_the_last():
    alphas = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear").alphas_cumprod
    extent = (torch.tensor(-1.0), torch.tensor(1.0))
    sample, noise = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    fresh = torch.ones_like(sample)
    for level, after in ((999, 500), (500, 37), (37, 0), (0, -1)):
        plain, wide, mean = (
            widened_step(sample, noise, level, after, alphas, extent, widen, z)
            for widen, z in ((0.0, fresh), (0.21, fresh), (0.0, 0 * fresh))
        )
        torch.testing.assert_close(wide - mean, 1.1 * (plain - mean), rtol=1e-2, atol=1e-5)
        assert torch.equal(plain, mean) == (after == -1)


def test_one_widening_is_kept_along_a_chain_and_drawn_anew_for_each_batch(monkeypatch):
    model, seen = train_ddpm(stripes(), small(**PAPERS), seed=0), []

    def watched(*arguments):
        seen.append(arguments[5])
        return reverse(*arguments)

    monkeypatch.setattr(ddpm_module, "reverse", watched)
    model.generate(12, 0)
    assert len(set(seen)) == 6
    assert 0.1 <= min(seen) < max(seen) <= 0.2


def test_partial_diffusion_stays_near_the_pictures_it_starts_from():
    config = small(partial=30)
    model = train_ddpm(stripes(), config, seed=0)
    flat = [np.full((24, 24, 3), tone, np.uint8) for tone in (60, 160)]
    for picture in model.generate(6, 0, flat):
        assert min(abs(picture.mean() - 60), abs(picture.mean() - 160)) < 15
    with pytest.raises(RecipeError, match="partial diffusion starts from normal pictures"):
        model.generate(2, 0)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_a_saved_model_generates_the_same(tmp_path, colour, whole):
    config = small(whole=whole, **PAPERS)
    model = train_ddpm(stripes(colour=colour), config, seed=0)
    model.save(tmp_path / "model")
    made, again = model.generate(3, 1), DDPM.load(tmp_path / "model").generate(3, 1)
    np.testing.assert_array_equal(made, again)
    assert np.shape(made) == (3, 16, 16, 3)
    assert made[0].dtype == np.uint8
    assert all((picture == picture[:, :, :1]).all() for picture in made) == (not colour)
    assert (np.stack(made) != np.stack(model.generate(3, 2))).any()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(DataError, match=r"no whole diffusion model .*train it again"):
        DDPM.load(tmp_path / "model")
    with pytest.raises(DataError, match="no whole diffusion model"):
        DDPM.load(tmp_path / "nowhere")


def test_a_checkpoint_of_anything_else_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    train_ddpm(stripes(), SMALL, seed=0, checkpoint=path)
    with pytest.raises(
        ArtefactError, match=r"another training: its steps is 6, now 7; give another folder, or"
    ):
        train_ddpm(stripes(), small(steps=7), seed=0, checkpoint=path)
    with pytest.raises(ArtefactError, match="its seed is 0, now 1"):
        train_ddpm(stripes(), SMALL, seed=1, checkpoint=path)
    with pytest.raises(ArtefactError, match="it differs in pictures;"):
        train_ddpm(stripes(3), SMALL, seed=0, checkpoint=path)
    train_ddpm(stripes(), small(widen=(0.3, 0.4)), seed=0, checkpoint=path)  # only for generating
    path.write_bytes(b"half")
    with pytest.raises(ArtefactError, match=r"is damaged .*remove it to train anew"):
        train_ddpm(stripes(), SMALL, seed=0, checkpoint=path)


def test_pictures_that_cannot_be_learnt_are_refused():
    with pytest.raises(DataError, match="no normal picture"):
        train_ddpm([], SMALL, seed=0)
    with pytest.raises(DataError, match=r"24x24 is smaller than the crops of 32 pixels.*whole: true"):
        train_ddpm(stripes(), small(side=32), seed=0)
    with pytest.raises(DataError, match=r"UINT8 \[H, W, 3\]"):
        train_ddpm([np.zeros((24, 24), np.uint8)], SMALL, seed=0)


def surface(height=96, width=130, colour=False, seed=0):
    tones = np.random.default_rng(seed).normal(100, 12, (height, width, 3 if colour else 1))
    return np.clip(np.broadcast_to(tones, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("content", ["departures", "pictures"])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("colour", [False, True])
def test_the_blend_changes_exactly_its_mask_and_keeps_grey_pictures_grey(whole, colour, content):
    picture = surface(colour=colour)
    textures = [surface(32, 32, colour=True, seed=seed) for seed in range(3)]
    if content == "departures":
        textures = [texture.astype(np.int16) - 80 for texture in textures]
    synthesizer = DDPMBlend(textures, DDPMConfig(whole=whole, content=content))
    for seed in range(15):
        result, mask = synthesizer(picture, np.random.default_rng(seed))
        np.testing.assert_array_equal(mask, (result != picture).any(axis=2))
        assert np.count_nonzero(mask) >= 12
        assert colour or (result == result[:, :, :1]).all()
        np.testing.assert_array_equal(result, synthesizer(picture, np.random.default_rng(seed))[0])


def test_settings_of_earlier_artefacts_mean_what_they_meant():
    earlier = DDPMConfig.model_validate({"method": "ddpm", "partial": None, "widen": (0.1, 0.2)})
    assert (earlier.content, earlier.lines) == ("pictures", 0)
    assert DDPMConfig().content == "departures"


def test_what_is_not_widened_does_not_depart():
    """With s = 0 both chains are one; the more s, the further they part."""
    pictures = stripes()
    model = train_ddpm(pictures, SMALL, seed=0)
    sizes = []
    for widen in ((0, 0), (0.01, 0.01), (0.2, 0.2)):
        model.config = small(widen=widen, content="pictures")
        drawn = np.stack(model.departures(8, 0, pictures))
        assert (drawn.dtype, drawn.shape) == (np.int16, (8, 16, 16, 3))
        np.testing.assert_array_equal(drawn, model.departures(8, 0, pictures))
        sizes.append(np.abs(drawn).mean())
    assert sizes[0] == 0
    assert 1 < sizes[1] < sizes[2] / 2


def test_the_place_keeps_its_grain():
    """Fine detail of the changed place is that of the place, not other detail of the same strength."""
    pictures = stripes(8, 64)
    model = train_ddpm(pictures, small(side=32, steps=60), seed=0)
    blend = DDPMBlend(
        model.departures(8, 0, pictures),
        DDPMConfig(side=32, opacity=(1, 1), regions="rectangles", foreground=False),
    )
    for seed in range(10):
        result, mask = blend(pictures[seed % 8], np.random.default_rng(seed))
        rows, columns = (slice(each.min(), each.max() + 1) for each in np.nonzero(mask))
        before, after = (
            each[rows, columns, 0].astype(float) - cv2.blur(each[rows, columns, 0].astype(float), (5, 5))
            for each in (pictures[seed % 8], result)
        )
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.8
        assert 0.7 < after.std() / before.std() < 1.5


def test_the_blend_shows_a_piece_of_the_texture_at_its_brightness_with_the_opacity_asked_for():
    y, x = np.mgrid[:200, :220]
    texture = np.stack([y, x, np.zeros_like(x)], axis=2).astype(np.uint8)
    picture = np.full((96, 130, 3), round(texture.mean()), np.uint8)
    picture[:, :, 0] += 1  # with colour, so that the texture keeps its own
    gain = picture.mean() / texture.mean()
    opacities = []
    for seed in range(30):
        result, mask = DDPMBlend([texture], DDPMConfig(opacity=(1, 1), **PAPERS))(
            picture, np.random.default_rng(seed)
        )
        rows, columns = np.nonzero(mask)
        shown = result[mask].astype(float)
        assert np.ptp(shown[:, 0] - gain * rows) <= 1.5
        assert np.ptp(shown[:, 1] - gain * columns) <= 1.5
        result, mask = DDPMBlend([np.full((9, 9, 3), [200, 0, 0], np.uint8)], DDPMConfig(**PAPERS))(
            picture, np.random.default_rng(seed)
        )
        opacities.append(1 - result[mask][0, 1] / picture[0, 0, 1])
    assert 0.48 < min(opacities) < 0.6
    assert 0.9 < max(opacities) <= 1


def test_a_texture_smaller_than_the_region_is_mirrored_on():
    texture = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7, 1).repeat(3, axis=2) + 60
    picture = np.full((96, 130, 3), 77, np.uint8)
    wide = np.tile(np.concatenate([texture, texture[::-1]]), (40, 1, 1))
    wide = np.tile(np.concatenate([wide, wide[:, ::-1]], axis=1), (1, 40, 1))
    for seed in range(5):
        result, mask = DDPMBlend([texture], DDPMConfig(opacity=(1, 1), **PAPERS))(
            picture, np.random.default_rng(seed)
        )
        rows, columns = np.nonzero(mask)
        offsets = [
            (top, left)
            for top in range(10)
            for left in range(14)
            if np.abs(wide[rows + top, columns + left].astype(int) - result[mask]).max() <= 1
        ]
        assert offsets


def test_defects_stay_on_the_object():
    y, x = np.mgrid[:96, :130]
    disc = (y - 48) ** 2 + (x - 60) ** 2 < 30**2
    picture = np.where(disc[:, :, None], surface() + 90, surface() // 4).astype(np.uint8)
    textures = [surface(64, 64, seed=5) // 2]
    for seed in range(10):
        _, mask = DDPMBlend(textures, DDPMConfig())(picture, np.random.default_rng(seed))
        assert (mask & disc).sum() > 0.85 * mask.sum()
    outside = [
        DDPMBlend(textures, DDPMConfig(foreground=False))(picture, np.random.default_rng(s))[1]
        for s in range(10)
    ]
    assert np.mean([(mask & ~disc).sum() / mask.sum() for mask in outside]) > 0.4


def test_resizing_keeps_the_mean_and_the_size_asked_for():
    picture = surface(50, 70, colour=True)
    for size in ((16, 16), (50, 70), (100, 90)):
        assert resized(picture, *size).shape == (*size, 3)
        assert resized(picture, *size).mean() == pytest.approx(picture.mean(), abs=1)


def test_rectangles_are_regions_of_the_size_of_a_pasted_patch():
    texture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = np.full((96, 130, 3), 99, dtype=np.uint8)
    shares = []
    for seed in range(20):
        made = DDPMBlend([texture], DDPMConfig(regions="rectangles", foreground=False))
        result, mask = made(picture, np.random.default_rng(seed))
        rows, columns = np.nonzero(mask)
        assert mask.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        np.testing.assert_array_equal(mask, (result != picture).any(axis=2))
        shares.append(mask.mean())
        turned = DDPMBlend([texture], DDPMConfig(foreground=False))(picture, np.random.default_rng(seed))[1]
        rows, columns = np.nonzero(turned)
        assert turned.sum() < (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert 0.015 < min(shares) < 0.05
    assert 0.1 < max(shares) < 0.16


def test_lines_are_drawn_as_often_as_asked():
    departures = [np.full((32, 32, 3), tone, np.int16) for tone in (-40, 40)]
    thin = []
    for share in (0.0, 1.0):
        blend = DDPMBlend(departures, DDPMConfig(lines=share, widest=2, foreground=False))
        masks = [blend(surface(), np.random.default_rng(seed))[1].astype(np.uint8) for seed in range(12)]
        pieces = [cv2.connectedComponents(mask, connectivity=8)[0] - 1 for mask in masks]
        assert (max(pieces) == 1) == (share == 1)
        thin.append(np.mean([cv2.erode(mask, np.ones((5, 5))).any() for mask in masks]))
    assert thin[1] < 0.2 < thin[0]


def test_a_mixture_trains_each_of_its_models_in_its_share_of_the_budget(tmp_path, monkeypatch):
    asked = []

    def watched(*arguments, **options):
        asked.append((options["budget"], options["checkpoint"]))
        return train_ddpm(*arguments, **options)

    monkeypatch.setattr(ddpm_module, "train_ddpm", watched)
    mixture = read_synthesis(
        {"method": "mixed", "parts": [SMALL, "perlin", {"method": "mixed", "parts": [SMALL, small(steps=2)]}]}
    )
    assert mixture.trainings == 3

    def material():
        return Material(learned=stripes, seed=1, checkpoint=tmp_path, budget=Budget(30.0, 3))

    made = mixture.prepare(material())
    shares = [budget for budget, _ in asked]
    assert shares[0] == 10
    assert 10 < shares[1] < shares[2] < 30, "what one leaves is the others'"
    assert len({path for _, path in asked}) == 3
    picture = surface()
    results = [made(picture, np.random.default_rng(seed))[0] for seed in range(6)]
    again = mixture.prepare(material())
    assert len(asked) == 3, "what was generated is read again"
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(again(picture, np.random.default_rng(seed))[0], result)


def test_pictures_generated_under_other_settings_are_not_taken_for_these(tmp_path):
    material = Material(learned=stripes, checkpoint=tmp_path)
    textures = SMALL.prepare(material).textures
    assert len(textures) == 3
    blended = small(opacity=(1, 1)).prepare(material)
    np.testing.assert_array_equal(blended.textures, textures)
    assert len(small(pool=5).prepare(material).textures) == 5
    assert (np.stack(small(widen=(5, 5)).prepare(material).textures) != np.stack(textures)).any()


@pytest.fixture
def line(tmp_path):
    samples = []
    for number, picture in enumerate(stripes(4, 64)):
        path = tmp_path / "line" / "good" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture)
        samples.append(Sample(path, "good", None, path.stem, "train"))
    return Dataset("folder:line", tmp_path / "line", tuple(samples))


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}


def test_a_line_is_learnt_once_and_its_pictures_go_on(line, tmp_path, monkeypatch):
    out = tmp_path / "out"
    synthesize_line(line, SMALL, 2, out, seed=1)
    monkeypatch.setattr("flawline.synthesis.ddpm.train_ddpm", None)
    synthesize_line(line, SMALL, 4, out, seed=1)
    monkeypatch.undo()
    whole = tmp_path / "whole"
    synthesize_line(line, SMALL, 4, whole, seed=1)
    assert files(out) == files(whole)
    assert len(files(out / "masks")) == 4
    assert json.loads((out / "synthetic.json").read_text())["settings"]["side"] == 16
    pool = load_file(out / "ddpm" / "pool.safetensors")["departures"]
    pictures = [sample.read_image() for sample in line.train_normals]
    np.testing.assert_array_equal(pool, DDPM.load(out / "ddpm").departures(3, 1, pictures))
    (out / "ddpm" / "pool.safetensors").write_bytes(b"half")
    synthesize_line(line, SMALL, 5, out, seed=1)
    np.testing.assert_array_equal(pool, load_file(out / "ddpm" / "pool.safetensors")["departures"])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "pool.safetensors"])
def test_a_model_of_others_is_refused_before_training(line, tmp_path, monkeypatch, name):
    monkeypatch.setattr("flawline.synthesis.ddpm.train_ddpm", lambda *_, **__: pytest.fail("it trained"))
    (tmp_path / "ddpm").mkdir()
    (tmp_path / "ddpm" / name).write_bytes(b"somebody's model")
    with pytest.raises(OutputError, match=f"{name} is there and was not made by Flawline"):
        generated(SMALL, Material(learned=lambda: [line.train_normals[0].read_image()], checkpoint=tmp_path))
    assert (tmp_path / "ddpm" / name).read_bytes() == b"somebody's model"


def test_other_settings_in_the_same_folder_are_refused_before_training(line, tmp_path, monkeypatch):
    out = tmp_path / "out"
    synthesize_line(line, SMALL, 1, out)
    monkeypatch.setattr("flawline.synthesis.ddpm.train_ddpm", None)
    with pytest.raises(
        DataError, match=r"another opacity \(\[0\.5, 1\.0\], now \[1\.0, 1\.0\]\).*another folder"
    ):
        synthesize_line(line, small(opacity=(1, 1)), 1, out)
    with pytest.raises(DataError, match=r"another budget \(None, now 9\.0\)"):
        synthesize_line(line, SMALL, 1, out, budget=9.0)
    monkeypatch.undo()
    with pytest.raises(DataError, match="smaller than the crops"):
        synthesize_line(line, small(side=96), 1, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(RecipeError, match="'strokes' trains nothing and takes no budget"):
        synthesize_line(line, read_synthesis("strokes"), 1, tmp_path / "new", budget=9.0)
