"""Inpainting by latent diffusion, on tiny random pipelines in the layouts of SD 1.5 and SDXL."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from flawline.errors import RecipeError
from flawline.recipe import read_recipe
from flawline.synthesis import Material
from flawline.synthesis.latent_diffusion import LatentDiffusion, LatentDiffusionConfig

WIDTH = 8


def tokenizer(folder):
    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + [","]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def parts(xl):
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=56,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=WIDTH,
        bos_token_id=54,
        eos_token_id=55,
        pad_token_id=55,
    )
    extra = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
        "use_linear_projection": True,
    }
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=9,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * WIDTH if xl else WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        **(extra if xl else {}),
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    return text, unet, vae


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def model(request, tmp_path_factory):
    """A folder as a user has it: an inpainting pipeline with safetensors weights."""
    folder = tmp_path_factory.mktemp(request.param)
    xl = request.param == "sdxl"
    text, unet, vae = parts(xl)
    common = {
        "vae": vae,
        "unet": unet,
        "scheduler": DDIMScheduler(),
        "text_encoder": CLIPTextModel(text),
        "tokenizer": tokenizer(folder / "words"),
    }
    if xl:
        pipeline = StableDiffusionXLInpaintPipeline(
            **common,
            text_encoder_2=CLIPTextModelWithProjection(text),
            tokenizer_2=tokenizer(folder / "words_2"),
        )
    else:
        pipeline = StableDiffusionInpaintPipeline(
            **common, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.save_pretrained(folder / "model", safe_serialization=True)
    return folder / "model"


def small(model, **changes):
    return LatentDiffusionConfig(**{"model": str(model), "steps": 2, "side": 64, "device": "cpu", **changes})


def surface(colour=False):
    tones = np.random.default_rng(0).normal(110, 12, (72, 110, 3 if colour else 1))
    return np.clip(np.broadcast_to(tones, (72, 110, 3)), 0, 255).astype(np.uint8)


def test_only_the_mask_is_painted_and_a_seed_fixes_it(model):
    synthesizer = small(model).prepare(Material())
    for colour in (False, True):
        picture = surface(colour)
        result, mask = synthesizer(picture, np.random.default_rng(1))
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(mask, (result != picture).any(axis=2))
        assert 12 <= np.count_nonzero(mask) < mask.size
        assert colour or (result == result[:, :, :1]).all()
        again, _ = synthesizer(picture, np.random.default_rng(1))
        np.testing.assert_array_equal(result, again)
    other, _ = synthesizer(picture, np.random.default_rng(2))
    assert (other != result).any()


class Recorder:
    """In place of a pipeline: keeps what it is called with, and paints everything white."""

    def __init__(self):
        self.calls = []

    def __call__(self, **arguments):
        self.calls.append(arguments)
        white = arguments["image"].point(lambda _: 255)
        return type("Painted", (), {"images": [white]})


def test_the_pipeline_is_asked_what_the_paper_asks():
    pipeline = Recorder()
    synthesizer = LatentDiffusion(LatentDiffusionConfig(), pipeline=pipeline)
    for seed in range(8):
        result, mask = synthesizer(surface(), np.random.default_rng(seed))
        assert (result[mask] == 255).all()
    for call in pipeline.calls:
        assert call["negative_prompt"] == "smooth, plain, black, dark, shadow"
        numbers = [
            call[k] for k in ("strength", "guidance_scale", "num_inference_steps", "padding_mask_crop")
        ]
        assert numbers == [0.99, 20.0, 30, 2]
        assert (
            call["image"].size == call["mask_image"].size == (call["width"], call["height"]) == (1024, 1024)
        )
    asked = {call["prompt"] for call in pipeline.calls}
    assert asked == {"white marks on the wall", "copper metal scratches"}


def test_masks_of_labelled_defects_are_brought_to_the_picture():
    config = LatentDiffusionConfig(masks="labelled", side=64)
    drawn = np.zeros((36, 55), dtype=np.bool_)
    drawn[10:20, 5:30] = True
    synthesizer = LatentDiffusion(config, masks=[drawn], pipeline=Recorder())
    _, mask = synthesizer(surface(), np.random.default_rng(0))
    np.testing.assert_array_equal(mask, drawn.repeat(2, axis=0).repeat(2, axis=1))
    with pytest.raises(RecipeError, match="masks from labelled defects, and the training split has none"):
        config.prepare(Material())


def test_models_that_cannot_be_loaded_are_named_with_the_cure(model, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cure = "give the folder of an SDXL or SD 1.5 inpainting pipeline"
    with pytest.raises(RecipeError, match=f"'nobody/nothing' cannot be loaded.*{cure}"):
        LatentDiffusion(small("nobody/nothing"))
    with pytest.raises(RecipeError, match=cure):
        LatentDiffusion(small(tmp_path))
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:1000])
        with pytest.raises(RecipeError, match=cure):
            LatentDiffusion(small(model))
        weights.rename(weights.with_suffix(".bin"))
        with pytest.raises(RecipeError, match=cure):
            LatentDiffusion(small(model))
    finally:
        weights.with_suffix(".bin").unlink(missing_ok=True)
        weights.write_bytes(whole)


def test_a_device_that_is_not_there_is_named(model):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(RecipeError, match="device 'cuda'"):
        small(model, device="cuda").prepare(Material(device="cpu"))
    with pytest.raises(RecipeError, match="device 'cuda'"):
        small(model, device="auto").prepare(Material(device="cuda"))


def test_the_recipe_holds_the_numbers_of_the_paper():
    recipe = read_recipe(Path(__file__).parents[2] / "build" / "recipes" / "latent_diffusion.yaml")
    assert recipe.synthesis == LatentDiffusionConfig(masks="labelled")
    assert recipe.synthesis.labelled
