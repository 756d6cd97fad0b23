"""Lines small enough for unit tests: generated pictures, a tiny teacher of random weights, artefacts by hand."""

from pathlib import Path

import torch
from transformers import ResNetBackbone, ResNetConfig

from flawline.data import Dataset
from flawline.data.surfaces import SurfaceOptions, load
from flawline.recipe import Recipe
from flawline.repository.manifest import CalibrationFacts, DataFacts, Manifest, sha256

SIZE = 128
KEY = (123_456_789, 2_000_000_011)


def write_teacher(folder: Path) -> str:
    """A ResNet of a few channels; what it sees means little, but everything works as with a real one."""
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], layer_type="basic"
    )
    ResNetBackbone(config).save_pretrained(folder / "teacher")
    return str(folder / "teacher")


def draw_line(folder: Path, **options: object) -> Dataset:
    """Pictures of a generated surface, 128 x 128 unless `size` says otherwise."""
    drawn = SurfaceOptions(**{"size": (SIZE, SIZE), **options})  # type: ignore[arg-type]
    return Dataset(drawn.spec(), *load(drawn, cache=folder))


def small_recipe(teacher: str, **changes: object) -> Recipe:
    small = {"size": SIZE, "false_alarm": 0.1, "synthetic_count": 4}
    settings = {"teacher": teacher, **small, **changes}
    return Recipe.model_validate(settings)


def write_artefact(folder: Path, line: str = "bottle", version: int = 1, **changes: object) -> Manifest:
    """An artefact with the files of a real one, each holding a few bytes that name line and version."""
    folder.mkdir(parents=True)
    for name in ("bank_negative.safetensors", "model.onnx", "model.xml", "model.bin", "model.py"):
        (folder / name).write_text(f"{name} of {line} {version}")
    scores = (0.5, 0.75, 1.25)
    facts = {
        "line": line,
        "version": version,
        "detector": "exdd",
        "created": "2026-01-02T03:04:05+00:00",
        "flawline": "0.1.0",
        "recipe": {"size": SIZE},
        "seed": 0,
        "size": SIZE,
        "patches": 256,
        "dimensions": 28,
        "fused": True,
        "data": DataFacts(
            name="surfaces",
            fingerprint="f",
            bank_normals=9,
            calibration_normals=3,
            labelled_defects=0,
            synthetic_defects=0,
        ),
        "teacher": "builtin",
        "teacher_fingerprint": "t",
        "positive_bank": "none",
        "target": "openvino",
        "calibration": CalibrationFacts(
            method="split",
            asked_false_alarm=0.25,
            false_alarm=0.25,
            normals=len(scores),
            promise="one in four",
            pixel_threshold=2.0,
            scores=scores,
        ),
        "metrics": {"image_auroc": 0.875},
        "parity": (),
        "libraries": {},
        "artefact_key": KEY,
        "files": {path.name: sha256(path) for path in sorted(folder.iterdir())},
        **changes,
    }
    manifest = Manifest.model_validate(facts)
    manifest.write(folder)
    return manifest
