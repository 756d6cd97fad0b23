"""Lines small enough for unit tests: generated pictures, a tiny teacher of random weights, artefacts by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import ResNetBackbone, ResNetConfig

from flawline.artefact.manifest import (
    CalibrationFacts,
    DataFacts,
    Manifest,
    PartFacts,
    TensorFacts,
    TrainingFacts,
    hashes,
)
from flawline.artefact.rules import Rules
from flawline.artefact.served import NEGATIVE
from flawline.data import Dataset
from flawline.data.surfaces import SurfaceOptions, load
from flawline.detectors.exdd.config import ExDDConfig
from flawline.detectors.exdd.model import MemoryBank
from flawline.detectors.exdd.part import ExDDPart
from flawline.detectors.line import Line
from flawline.detectors.part import Part, parse_detector
from flawline.detectors.students.blocks import Levelled
from flawline.detectors.students.part import StudentPart
from flawline.jobs.fit import positions
from flawline.recipe import Recipe
from flawline.scoring.calibration import Calibration
from flawline.scoring.finding import Role
from flawline.scoring.settings import LineSettings, PartSettings
from flawline.teachers import Teacher, load_teacher

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
    small = {"size": SIZE, "false_alarm": 0.1, "synthetic_count": 4, "even_exposure": True}
    banks = {"colour": False, **changes.pop("exdd", {})}  # type: ignore[dict-item]
    settings = {"teacher": teacher, **small, **changes, "exdd": banks}
    return Recipe.model_validate(settings)


SMALL: dict[str, dict[str, Any]] = {
    "exdd": {},
    "sacd": {},
    "ddpm_ast": {"width": 8, "far": True, "layers": (1, 2, 3)},
}
"""Settings of the parts of small models."""


def small_model(
    teacher: str, detector: str, changes: Mapping[str, Mapping[str, Any]] | None = None, *, even: bool = False
) -> Line:
    """A Line that has learnt nothing, with statistics of batch normalisation worth folding.

    Args:
        teacher: folder of a teacher.
        detector: its parts.
        changes: settings of parts by name, beside SMALL.
        even: whether the teacher evens out exposure.

    """
    kinds = parse_detector(detector)
    configs = [kind.Config(**{**SMALL[kind.name], **(changes or {}).get(kind.name, {})}) for kind in kinds]
    layers = [kind.layers(config, teacher) for kind, config in zip(kinds, configs, strict=True)]
    backbone = load_teacher(
        teacher, layers=tuple(sorted({n for each in layers for n in each})), even_exposure=even
    )
    torch.manual_seed(0)
    parts = [
        _small_part(kind, config, positions(kind, each, backbone), backbone)
        for kind, config, each in zip(kinds, configs, layers, strict=True)
    ]
    return Line(backbone, parts).eval()


def _small_part(kind: type[Part], config: Any, maps: tuple[int, ...], teacher: Teacher) -> Part:
    if issubclass(kind, ExDDPart):
        assert isinstance(config, ExDDConfig)
        width = sum(teacher.channels[position] for position in maps)
        banks = [MemoryBank.of(torch.rand(count, width), config.neighbours) for count in (40, 20)]
        positive = None if config.positive == "none" else banks[1]
        return kind(config, maps, banks[0], positive, {"Positive bank": "20 random vectors"})
    assert issubclass(kind, StudentPart)
    normals = torch.randint(256, (2, SIZE, SIZE, 3), dtype=torch.uint8)
    student, architecture = kind.make(config, teacher, maps, normals, seed=0)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    grid = architecture["maps"][0][1:]
    architecture["grid"] = grid
    levels = Levelled(student, 0.1 * torch.rand(grid), 0.5 + torch.rand(grid)).eval()
    facts = TrainingFacts(steps=4, seconds=2.0, losses=(3.0, 2.0))
    return kind(config, maps, levels.requires_grad_(requires_grad=False), architecture, facts)


SCORES = (0.5, 0.75, 1.25)
"""Scores of the normals that calibrate an artefact by hand."""


def small_rules(*parts: PartSettings, **changes: Any) -> Rules:
    """Rules of a line of these parts, with the calibration that `write_artefact` tells of."""
    fixed = {"size": SIZE, "false_alarm": 0.25, "pixel_threshold": 2.0, "min_area": 16, "parts": parts}
    scores = np.array(SCORES, np.float32)
    settings = LineSettings.model_validate({**fixed, **changes})
    return Rules(settings, Calibration("split", scores, 2 * scores, 0.25, 0.25, settings.pixel_threshold))


def banks_facts() -> PartFacts:
    """What the manifest of a small line says of `exdd`."""
    return PartFacts(
        name="exdd",
        outputs=(TensorFacts(name="EMBEDDING", dims=(SIZE // 8, SIZE // 8, 28)),),
        stage="ratio_scoring",
        gives={"map": "RATIO_MAP", "score": "RATIO_SCORE"},
        maps=(0, 1),
        architecture={},
        statements={"Positive bank": "none: scores are distances from normal alone (PatchCore)"},
        training=None,
    )


def student_facts(name: str) -> PartFacts:
    """What the manifest of a small line says of a student."""
    return PartFacts(
        name=name,
        outputs=(TensorFacts(name="DISCREPANCY", dims=(SIZE // 4, SIZE // 4)),),
        stage=None,
        gives={"map": "DISCREPANCY"},
        maps=(0, 1),
        architecture={"maps": [[8, 32, 32], [12, 16, 16]], "grid": [32, 32]},
        statements={"Student": f"{name}, 4 steps in 2 s"},
        training=TrainingFacts(steps=4, seconds=2.5, losses=(3.0, 1.5)),
    )


def write_artefact(
    folder: Path, line: str = "bottle", version: int = 1, detector: str = "exdd", **changes: object
) -> Manifest:
    """An artefact with the files of a real one. Its rules are real; each other file names line and version."""
    folder.mkdir(parents=True)
    names = detector.split("+")
    parts = tuple(banks_facts() if name == "exdd" else student_facts(name) for name in names)
    own = {"exdd": (NEGATIVE,), "sacd": ("sacd.safetensors",), "ddpm_ast": ("ddpm_ast.safetensors",)}
    files = [file for name in names for file in own[name]]
    for file in (*files, "teacher.safetensors", "model.onnx", "model.xml", "model.bin", "model.py"):
        (folder / file).write_text(f"{file} of {line} {version}")
    roles: dict[str, tuple[Role, ...]] = dict.fromkeys(("sacd", "ddpm_ast"), ("map",))
    rules = small_rules(*(PartSettings(name=name, gives=roles.get(name, ("map", "score"))) for name in names))
    rules.save(folder)
    facts = {
        "line": line,
        "version": version,
        "detector": detector,
        "created": "2026-01-02T03:04:05+00:00",
        "flawline": "0.1.0",
        "recipe": {"size": SIZE},
        "seed": 0,
        "size": SIZE,
        "fused": True,
        "data": DataFacts(name="surfaces", fingerprint="f", learnt_normals=9, labelled_defects=0),
        "teacher": {"text": "builtin", "fingerprint": "t"},
        "parts": parts,
        "fusion": rules.settings.fusion_statement,
        "target": "openvino",
        "calibration": CalibrationFacts(
            method="split",
            asked_false_alarm=0.25,
            false_alarm=0.25,
            normals=len(SCORES),
            promise="one in four",
            pixel_threshold=2.0,
        ),
        "metrics": {"image_auroc": 0.875},
        "parity": (),
        "libraries": {},
        "artefact_key": KEY,
        "files": hashes(folder),
        **changes,
    }
    manifest = Manifest.model_validate(facts)
    manifest.write(folder)
    return manifest
