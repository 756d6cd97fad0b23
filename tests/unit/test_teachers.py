"""Teachers, patch features and the generator the built-in teacher learns from."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    Dinov2Backbone,
    Dinov2Config,
    DINOv3ViTBackbone,
    DINOv3ViTConfig,
    ResNetBackbone,
    ResNetConfig,
    ResNetForImageClassification,
)

from flawline import registry
from flawline.errors import ArtefactError, RecipeError
from flawline.teachers import Teacher, default_layers, load_teacher
from flawline.teachers.adapt import AdaptConfig, adapt
from flawline.teachers.generator import Dice
from flawline.teachers.generator.formula import Formulas
from flawline.teachers.patch_features import PatchFeatures
from flawline.teachers.transformers_models import BUILTIN_FOLDER


def pictures(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8))


def resnet_config() -> ResNetConfig:
    return ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], layer_type="basic"
    )


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    ResNetBackbone(resnet_config()).save_pretrained(tmp_path / "resnet")
    return tmp_path / "resnet"


@pytest.fixture
def dinov2(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Backbone(config).save_pretrained(tmp_path / "dinov2")
    return tmp_path / "dinov2"


class Embedding(nn.Module):
    """Teacher and patch features in one graph, as lines export them."""

    def __init__(self, teacher: Teacher, patches: PatchFeatures) -> None:
        super().__init__()
        self.teacher, self.patches = teacher, patches

    def forward(self, batch: Tensor) -> Tensor:
        return self.patches(self.teacher(batch))


def test_builtin_gives_strides_8_and_16_and_is_small() -> None:
    teacher = load_teacher("builtin")
    fine, coarse = teacher(pictures(2, 64))
    assert (teacher.layers, teacher.channels) == ((2, 3), (64, 128))
    assert (fine.shape, coarse.shape) == ((2, 64, 8, 8), (2, 128, 4, 4))
    assert fine.dtype == coarse.dtype == torch.float32
    (weights,) = BUILTIN_FOLDER.glob("*.safetensors")
    assert weights.stat().st_size < 12_000_000
    with safe_open(weights, framework="pt") as file:
        stored = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - not a dict
    assert all(value.isfinite().all() for value in stored)
    assert {value.dtype for value in stored if value.is_floating_point()} == {torch.float16}


def test_builtin_normalises_by_its_own_numbers() -> None:
    teacher, batch = load_teacher("builtin"), pictures(1, 64)
    settings = json.loads((BUILTIN_FOLDER / "preprocessor_config.json").read_text())
    pixels = (batch.permute(0, 3, 1, 2) / 255 - settings["image_mean"][0]) / settings["image_std"][0]
    backbone = ResNetBackbone.from_pretrained(BUILTIN_FOLDER, out_indices=[2, 3]).float().eval()
    for got, expected in zip(teacher(batch), backbone(pixels).feature_maps, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_builtin_sees_a_faint_scratch_where_it_is() -> None:
    """The patches under a scratch move far more than those beside it."""
    dice = Dice(5)
    field = Formulas.draw(dice, 8).surfaces(96, dice)
    surface = (0.5 + 0.04 * field)[:, None].repeat(1, 3, 1, 1)
    scratched = surface.clone()
    scratched[:, :, 20:76, 47:49] -= 0.12
    teacher, patches = load_teacher("builtin"), PatchFeatures()

    def embed(values: Tensor) -> Tensor:
        return patches(teacher((values.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1)))

    moved = (embed(scratched) - embed(surface)).norm(dim=3)
    assert moved.shape == (8, 12, 12)
    assert moved[:, 4:8, 5:7].mean() > 3 * moved[:, :, [0, 1, 10, 11]].mean()


def test_even_exposure_sees_the_same_part_under_more_or_less_light() -> None:
    dark = 40 + 0.4 * pictures(2, 64).float()
    light = (1.5 * dark + 10).round().to(torch.uint8)
    for even, same in ((True, True), (False, False)):
        teacher = load_teacher("builtin", even_exposure=even)
        one, other = (maps[-1] for maps in (teacher(dark.round().to(torch.uint8)), teacher(light)))
        assert ((one - other).norm() < 0.05 * one.norm()) == same


def test_even_exposure_leaves_a_flat_picture_finite() -> None:
    flat = torch.full((1, 64, 64, 3), 200, dtype=torch.uint8)
    assert torch.isfinite(load_teacher("builtin", even_exposure=True)(flat)[-1]).all()


@pytest.mark.parametrize("name", ["resnet", "dinov2"])
def test_folder_and_hf_are_the_same_teacher(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    plain, hub = load_teacher(str(folder)), load_teacher(f"hf:{folder}")
    assert plain.layers == (2, 3)
    assert plain.fingerprint == hub.fingerprint
    maps = plain(pictures(2, 56))
    assert [part.shape[1] for part in maps] == list(plain.channels)
    for one, other in zip(maps, hub(pictures(2, 56)), strict=True):
        assert torch.equal(one, other)


def test_hf_teacher_without_settings_takes_imagenet_normalisation(resnet: Path) -> None:
    batch = pictures(1, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    backbone = ResNetBackbone.from_pretrained(resnet, out_indices=[1, 4]).eval()
    expected = backbone(((batch / 255 - mean) / std).permute(0, 3, 1, 2)).feature_maps
    for got, want in zip(load_teacher(f"hf:{resnet}", layers=(1, 4))(batch), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_classifier_checkpoints_load_with_their_trained_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = ResNetForImageClassification(resnet_config()).eval()
    model.save_pretrained(tmp_path)
    teacher, batch = load_teacher(f"hf:{tmp_path}", layers=(4,)), pictures(1, 64)
    pixels = (batch.permute(0, 3, 1, 2) - teacher.mean) / teacher.std
    torch.testing.assert_close(
        teacher(batch)[0], model.resnet(pixels).last_hidden_state, rtol=1e-4, atol=1e-5
    )


def test_teacher_never_learns() -> None:
    teacher = load_teacher("builtin")
    nn.Sequential(teacher).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_fingerprint_follows_the_weights(resnet: Path) -> None:
    before = load_teacher(str(resnet)).fingerprint
    weights = load_file(resnet / "model.safetensors")
    weights["embedder.embedder.convolution.weight"][0] += 1
    save_file(weights, resnet / "model.safetensors", metadata={"format": "pt"})
    assert load_teacher(str(resnet)).fingerprint != before


@pytest.mark.parametrize(
    ("source", "size", "faithful"), [("builtin", 64, False), ("resnet", 64, True), ("dinov2", 70, False)]
)
def test_exported_graph_agrees_at_any_batch(
    source: str, size: int, faithful: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = source if source == "builtin" else str(request.getfixturevalue(source))
    model = Embedding(load_teacher(folder), PatchFeatures(faithful_pooling=faithful)).eval()
    torch.onnx.export(
        model,
        (pictures(2, size),),
        tmp_path / "model.onnx",
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        batch = pictures(count, size, seed=count)
        (got,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        expected = model(batch).numpy()
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def test_patches_average_neighbours_and_keep_rows_in_order() -> None:
    fine = torch.zeros(1, 1, 4, 6)
    fine[0, 0, 1, 2] = 9.0
    coarse = torch.arange(6.0).reshape(1, 1, 2, 3)
    patches = PatchFeatures()([fine, coarse])
    assert patches.shape == (1, 4, 6, 2)
    (grid,) = patches
    expected = torch.zeros(4, 6)
    expected[0:3, 1:4] = 1.0  # beyond the border are zeros, and they count
    torch.testing.assert_close(grid[..., 0], expected)
    assert grid[0, 0, 1] == pytest.approx((0 + 1 + 3 + 4) / 9)
    assert grid[3, 5, 1] == pytest.approx((1 + 2 + 4 + 5) / 9)
    existing = PatchFeatures(count_padding=False)([fine, coarse])[0]
    assert existing[0, 1, 0] == 1.5, "six neighbours at the border, not nine"
    assert existing[0, 0, 1] == pytest.approx((0 + 1 + 3 + 4) / 4)


def test_faithful_pooling_is_unpadded_then_adaptive() -> None:
    maps = [torch.rand(2, 3, 40, 14), torch.rand(2, 5, 20, 7)]
    patches = PatchFeatures(faithful_pooling=True)(maps)
    assert patches.shape == (2, 40, 14, 8)
    assert torch.allclose(patches[:, 0, 0, :3], maps[0][:, :, :3, :3].mean(dim=(2, 3)))
    assert torch.allclose(patches[:, -1, -1, 3:], maps[1][:, :, -3:, -3:].mean(dim=(2, 3)))


def damage_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200])


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def drop_one_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.stages.1.layers.0.layer.0.convolution.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def take_no_backbone(folder: Path) -> None:
    BertConfig().save_pretrained(folder)


def change_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "embedding_size": 16}))


def break_settings(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": [0.2]}')


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damage_weights, "model.safetensors is damaged"),
        (drop_weights, "no *.safetensors"),
        (drop_one_tensor, "lack 1 tensors, first encoder.stages.1"),
        (drop_config, "config.json is missing"),
        (take_no_backbone, "no backbone stages"),
        (change_width, "do not fit its config.json"),
        (break_settings, "must be three numbers"),
    ],
)
def test_a_harmed_teacher_is_refused_by_name(harm, words: str, resnet: Path) -> None:
    harm(resnet)
    with pytest.raises(ArtefactError) as caught:
        load_teacher(f"hf:{resnet}")
    assert words in str(caught.value)
    assert str(resnet) in str(caught.value)


def test_missing_teachers_and_layers_are_refused(
    resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ArtefactError, match="there is no such folder"):
        load_teacher(str(tmp_path / "nowhere"))
    with pytest.raises(ArtefactError, match="hf:nobody/nothing is neither a folder nor"):
        load_teacher("hf:nobody/nothing")
    with pytest.raises(ArtefactError, match="from 1 to 4"):
        load_teacher(str(resnet), layers=(3, 5))


def saved_and_rebuilt(teacher: Teacher) -> Teacher:
    """What comes back from a description in JSON and tensors in a file's form."""
    rebuilt = Teacher.rebuilt(json.loads(json.dumps(teacher.description())))
    rebuilt.load_state_dict({name: value.clone() for name, value in teacher.state_dict().items()})
    return rebuilt


def assert_the_same_teacher(one: Teacher, other: Teacher) -> None:
    assert other.description() == one.description()
    assert other.channels == one.channels
    assert not any(module.training for module in other.modules())
    assert not any(parameter.requires_grad for parameter in other.parameters())
    for first, second in zip(one(pictures(2, 56)), other(pictures(2, 56)), strict=True):
        assert torch.equal(first, second)


def test_builtin_is_rebuilt_bit_for_bit_and_draws_nothing() -> None:
    teacher = load_teacher("builtin", layers=(1, 3), even_exposure=True)
    state = torch.get_rng_state()
    rebuilt = saved_and_rebuilt(teacher)
    assert torch.equal(torch.get_rng_state(), state)
    assert (rebuilt.source, rebuilt.layers, rebuilt.even_exposure) == ("builtin", (1, 3), True)
    assert_the_same_teacher(teacher, rebuilt)


@pytest.mark.parametrize("prefix", ["", "hf:"])
@pytest.mark.parametrize("name", ["resnet", "dinov2"])
def test_teachers_are_rebuilt_when_their_folder_is_gone(
    name: str, prefix: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(name)
    teacher = load_teacher(f"{prefix}{folder}")
    shutil.rmtree(folder)
    assert_the_same_teacher(teacher, saved_and_rebuilt(teacher))


def test_tables_that_depend_on_how_a_model_was_loaded_are_kept(tmp_path: Path) -> None:
    """The frequencies of a rotary position embedding come out rounded when a model of half precision is loaded."""
    config = DINOv3ViTConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2, patch_size=14
    )
    DINOv3ViTBackbone(config).half().save_pretrained(tmp_path)
    teacher = load_teacher(str(tmp_path))
    assert_the_same_teacher(teacher, saved_and_rebuilt(teacher))


@pytest.mark.parametrize("name", ["resnet", "dinov2"])
def test_an_adapted_teacher_is_rebuilt_with_its_marks(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    squares, config = list(pictures(4, 96).numpy()), AdaptConfig(steps=2, crop=64, normals=2, tested=2)
    teacher, _ = adapt(load_teacher(str(folder)), squares, ["a", "b", "c", "d"], config, seed=0)
    shutil.rmtree(folder)
    rebuilt = saved_and_rebuilt(teacher)
    assert rebuilt.channels[-1] == 1
    assert_the_same_teacher(teacher, rebuilt)


def without_fingerprint(description: dict) -> None:
    del description["fingerprint"]


def with_other_layers(description: dict) -> None:
    description["layers"] = [1, 2]


def with_other_normalisation(description: dict) -> None:
    description["mean"][0] = 0.1


def of_another_model(description: dict) -> None:
    description["architecture"]["config"]["model_type"] = "bert"


def without_an_architecture(description: dict) -> None:
    description["architecture"] = {}


def with_a_word_for_a_number(description: dict) -> None:
    description["architecture"]["config"]["hidden_sizes"] = "wide"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (without_fingerprint, "damaged at fingerprint"),
        (with_other_layers, "contradicts itself"),
        (with_other_normalisation, "contradicts itself"),
        (of_another_model, "bert has no backbone stages"),
        (without_an_architecture, "not one that this version of transformers can build"),
        (with_a_word_for_a_number, "not one that this version of transformers can build"),
    ],
)
def test_harmed_descriptions_are_refused(harm: Callable[[dict], None], words: str) -> None:
    description = load_teacher("builtin").description()
    harm(description)
    with pytest.raises(ArtefactError, match=words):
        Teacher.rebuilt(description)


def test_descriptions_without_later_fields_are_read() -> None:
    description = load_teacher("builtin").description()
    for name in ("licence", "marks"):
        del description[name]
    assert Teacher.rebuilt({**description, "a later field": 1}).licence == "not stated"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\ntags:\n- vision\n---\n# A model\n", "mit"),
        ("---\nlicense: other\nlicense_name: dinov3-license\n---\n", "dinov3-license"),
        ("---\nlicense:\n- mit\n- apache-2.0\n---\n", "mit, apache-2.0"),
        ("# A model\n\n---\nlicense: mit\n---\n", "not stated"),
        ("---\ntags: [vision]\n---\n", "not stated"),
        ("---\nlicense: [mit\n---\n", "not stated"),
        ("", "not stated"),
        (None, "not stated"),
    ],
)
def test_the_licence_of_a_folder_is_that_of_its_model_card(
    card: str | None, licence: str, resnet: Path
) -> None:
    if card is not None:
        (resnet / "README.md").write_text(card)
    assert load_teacher(str(resnet)).licence == load_teacher(f"hf:{resnet}").licence == licence


def test_the_licence_of_builtin_is_the_project_s(resnet: Path) -> None:
    assert load_teacher("builtin").licence == "Apache-2.0"


def test_only_hub_names_ask_the_hub(resnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def fetch(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(resnet)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    for source in ("builtin", str(resnet), f"folder:{resnet}", f"hf:{resnet}"):
        Teacher.rebuilt(load_teacher(source).description())
    assert asked == []
    teacher = load_teacher("hf:somebody/resnet")
    assert {name for name, _ in asked} == {"somebody/resnet"}
    assert not any(pattern.endswith((".bin", ".py", "*")) for _, patterns in asked for pattern in patterns)
    asked.clear()
    assert_the_same_teacher(teacher, saved_and_rebuilt(teacher))
    assert asked == []


TOY = """
import hashlib
import torch
from torch import nn
from flawline.errors import ArtefactError
from flawline.teachers.backbone import Backbone
from flawline.teachers.sources import Loaded

class Toy(Backbone):
    def __init__(self, layers):
        super().__init__(
            layers=layers, channels=[4 * layer for layer in layers], mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25),
            architecture={"layers": list(layers)},
        )
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 4 * layer, 2**layer, 2**layer) for layer in layers)

    def forward(self, pixels):
        return [convolution(pixels) for convolution in self.convolutions]

class ToySource:
    def stages(self, name):
        if name not in ("", "large"):
            raise ArtefactError(f"toysource has no teacher {name}")
        return 4

    def load(self, name, layers):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(len(name))
            return Loaded(Toy(layers), hashlib.sha256(name.encode()).hexdigest(), "MIT")

    def rebuild(self, architecture):
        return Toy(architecture["layers"])

source = ToySource()
"""


@pytest.fixture
def toysource(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package with a teacher source, installed as pip leaves it: a module, and metadata with an entry point."""
    packages = tmp_path / "packages"
    facts = packages / "toysource-1.0.dist-info"
    facts.mkdir(parents=True)
    (packages / "toysource.py").write_text(TOY)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toysource\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[flawline.teachers]\ntoy = toysource:source\n")
    monkeypatch.syspath_prepend(packages)
    registry._installed.cache_clear()
    yield packages
    sys.modules.pop("toysource", None)
    registry._installed.cache_clear()


def test_a_source_of_another_package_gives_teachers(toysource: Path) -> None:
    del toysource
    teacher, large = load_teacher("toy"), load_teacher("toy:large", layers=(1, 3), even_exposure=True)
    assert (teacher.layers, teacher.channels, teacher.licence) == ((2, 3), (8, 12), "MIT")
    assert [part.shape for part in large(pictures(2, 64))] == [(2, 4, 32, 32), (2, 12, 8, 8)]
    assert teacher.fingerprint != large.fingerprint
    assert default_layers("toy:large", (1, 2)) == (1, 2)
    for each in (teacher, large):
        assert_the_same_teacher(each, saved_and_rebuilt(each))
    with pytest.raises(ArtefactError, match="toysource has no teacher small"):
        load_teacher("toy:small")
    with pytest.raises(ArtefactError, match=r"teacher toy: layers .* from 1 to 4"):
        load_teacher("toy", layers=(5,))


def test_a_registered_source_wins_over_a_folder_of_its_name(
    toysource: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del toysource
    (tmp_path / "toy").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_teacher("toy").source_name == "toy"


def test_a_line_whose_source_is_not_installed_says_so(toysource: Path) -> None:
    description = load_teacher("toy:large").description()
    shutil.rmtree(toysource)
    registry._installed.cache_clear()
    with pytest.raises(RecipeError, match=r"unknown teacher source 'toy'; .*builtin, hf, folder.*install"):
        Teacher.rebuilt(description)
    with pytest.raises(RecipeError, match=r"no teacher source 'toy'; .*builtin, hf, folder.*install"):
        load_teacher("toy:large")


@pytest.mark.parametrize("source", ["nowhere", "efficientnet:lite0", "efficientnet:some/name", ""])
def test_texts_that_name_no_source_list_those_there_are(source: str) -> None:
    with pytest.raises(RecipeError, match="builtin, hf, folder"):
        load_teacher(source)


def test_a_folder_of_one_word_is_a_teacher(resnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(resnet.parent)
    assert load_teacher(resnet.name).fingerprint == load_teacher(f"folder:{resnet}").fingerprint


@pytest.mark.parametrize("source", ["hf:", "hf", "folder", "folder:", "builtin:large"])
def test_sources_without_a_model_to_give_say_what_to_write(source: str) -> None:
    with pytest.raises(ArtefactError, match="give builtin"):
        load_teacher(source)
