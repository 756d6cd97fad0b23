"""Lines small enough for unit tests: generated pictures, a tiny teacher of random weights, artefacts by hand."""

from pathlib import Path

import torch
from torch import nn
from transformers import ResNetBackbone, ResNetConfig

from flawline.artefact.manifest import CalibrationFacts, DataFacts, Manifest, TrainingFacts, sha256
from flawline.data import Dataset
from flawline.data.surfaces import SurfaceOptions, load
from flawline.detectors.ddpm_ast.config import DDPMASTConfig
from flawline.detectors.exdd.model import ExDD, MemoryBank
from flawline.detectors.line import Line
from flawline.detectors.sacd.config import SACDConfig
from flawline.detectors.students.fit import make_student
from flawline.jobs.fit import parse_detector
from flawline.recipe import Recipe
from flawline.scoring.ratio import ImageScore
from flawline.teachers import PatchFeatures, load_teacher

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


def small_model(teacher: str, detector: str, **pooling: bool) -> Line:
    """A Line whose student and banks have learnt nothing, with statistics of batch normalisation worth folding."""
    student, has_memory = parse_detector(detector)
    layers = (1, 2, 3) if student else (2, 3)
    backbone = load_teacher(teacher, layers=layers)
    torch.manual_seed(0)
    memory = None
    if has_memory:
        chosen = (1, 2) if student else None
        features = PatchFeatures(chosen=chosen, **pooling)
        banks = (MemoryBank(torch.rand(count, sum(backbone.channels[-2:])), 2) for count in (40, 20))
        memory = ExDD(features, *banks, image_score=ImageScore.MAP_PEAK, positive_weight=0.25)
    if student is None:
        return Line(backbone, memory, None, ())
    config = {"sacd": SACDConfig(), "ddpm_ast": DDPMASTConfig(width=8, far=True)}[student]
    normals = torch.randint(256, (2, SIZE, SIZE, 3), dtype=torch.uint8)
    network = make_student(config, backbone, (0, 1, 2), normals, seed=0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return Line(backbone, memory, network.eval(), (0, 1, 2))


def write_artefact(
    folder: Path, line: str = "bottle", version: int = 1, detector: str = "exdd", **changes: object
) -> Manifest:
    """An artefact with the files of a real one, each holding a few bytes that name line and version."""
    folder.mkdir(parents=True)
    student, has_memory = parse_detector(detector)
    banks = ("bank_negative.safetensors",) if has_memory else ()
    for name in (*banks, "model.onnx", "model.xml", "model.bin", "model.py"):
        (folder / name).write_text(f"{name} of {line} {version}")
    scores = (0.5, 0.75, 1.25)
    facts = {
        "line": line,
        "version": version,
        "detector": detector,
        "created": "2026-01-02T03:04:05+00:00",
        "flawline": "0.1.0",
        "recipe": {"size": SIZE},
        "seed": 0,
        "size": SIZE,
        "patches": 256 if has_memory else 0,
        "dimensions": 28 if has_memory else 0,
        "discrepancy": (SIZE // 4, SIZE // 4) if student else None,
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
        "training": TrainingFacts(detector=student, steps=4, seconds=2.5, losses=(3.0, 1.5))
        if student
        else None,
        "fusion": "mean" if student and has_memory else None,
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
