"""Build a line: fit, calibrate, export, compile, prove that it is served as it was trained, publish."""

import hashlib
import json
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

import torch
from safetensors.numpy import save_file
from torch import nn

from flawline import __version__
from flawline.artefact.manifest import (
    CalibrationFacts,
    DataFacts,
    Manifest,
    TrainingFacts,
    artefact_key,
    sha256,
)
from flawline.artefact.served import NEGATIVE, POSITIVE
from flawline.data import Dataset, Sample
from flawline.detectors.exdd.model import MemoryBank
from flawline.detectors.export import LineGraph, export_onnx
from flawline.detectors.line import Line
from flawline.jobs.fit import FittedLine, fit, parse_detector
from flawline.jobs.prove import demand_parity, prove, statement
from flawline.progress import say
from flawline.recipe import Recipe
from flawline.report.evaluation import Evaluation
from flawline.report.page import write_report
from flawline.repository import names, publish
from flawline.targets import get_target
from flawline.teachers.adapt import AdaptConfig

LIBRARIES = (
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "openvino",
    "faiss-cpu",
    "numpy",
    "opencv-python-headless",
)


@dataclass(frozen=True)
class BuiltLine:
    """A published line. `evaluation` holds eager torch's answers on the pictures that parity compared."""

    manifest: Manifest
    evaluation: Evaluation
    folder: Path


def build(
    detector: str,
    dataset: Dataset,
    line: str,
    *,
    repository: Path,
    recipe: Recipe,
    target: str = "openvino",
    seed: int = 0,
    device: str = "auto",
    fused: bool = True,
    budget: float | None = None,
    checkpoint: Path | None = None,
) -> BuiltLine:
    """Build and publish a new version of a line.

    Args:
        detector: one of flawline.jobs.fit.DETECTORS.
        dataset: training pictures; its test pictures are used to compare paths and to state figures, never to fit.
        line: name under which it is served.
        repository: Triton model repository; created if missing.
        recipe: all settings.
        target: one of flawline.targets.TARGETS.
        seed: of every random choice.
        device: `auto`, `cpu` or a CUDA device; for fitting.
        fused: also publish the line as one model, `<line>_fused`.
        budget: seconds for training a student; without, the recipe's steps end it.
        checkpoint: folder for the state of that training, from which the same call goes on; None keeps none.

    Raises:
        FlawlineError: whatever is wrong with data, recipe, device, server or parity, in one sentence. What was
            published before stays as it was.

    """
    names.check_line(line)
    get_target(target)
    with publish.staging_area(repository, line) as staging:
        fitted = fit(
            detector, dataset, recipe, seed=seed, device=device, budget=budget, checkpoint=checkpoint
        )
        fitted.model.cpu()  # what is served here runs on the CPU: compare like with like
        trial = staging / "model_repository"
        publish.place_shared_stages(trial)
        draft = write_artefact(
            staging / "artefact",
            fitted,
            dataset,
            detector,
            line,
            recipe,
            target,
            seed,
            version=publish.next_version(repository, line),
        )
        publish.write_models(trial, draft, staging / "artefact")  # with the fused model, published or not
        artefact = trial / names.discrepancy(line) / str(draft.version)
        samples = _comparison(dataset, recipe.parity_pictures)
        evaluation, parity = prove(fitted, artefact, trial, samples, seed=seed)
        demand_parity(parity)
        metrics = json.loads(evaluation.result().model_dump_json()) if dataset.test else None
        manifest = draft.model_copy(update={"parity": tuple(parity), "metrics": metrics, "fused": fused})
        manifest.write(artefact)
        publish.place_shared_stages(repository)
        publish.write_models(repository, manifest, artefact)
    folder = repository / names.discrepancy(line) / str(manifest.version)
    return BuiltLine(manifest, evaluation, folder)


def write_artefact(
    folder: Path,
    fitted: FittedLine,
    dataset: Dataset,
    detector: str,
    line: str,
    recipe: Recipe,
    target: str,
    seed: int,
    *,
    version: int,
) -> Manifest:
    """Write the banks it has, graph, stage and a manifest that has no parity figures yet."""
    folder.mkdir()
    memory, student = fitted.model.memory, fitted.model.student
    banks = {} if memory is None else {NEGATIVE: memory.negative, POSITIVE: memory.positive}
    for name, bank in banks.items():
        if bank is not None:
            _save_bank(bank, folder / name)
    calibration = fitted.calibration
    fingerprint = dataset.fingerprint()
    key = artefact_key(
        {
            "banks": {path.name: sha256(path) for path in sorted(folder.iterdir())},
            "calibration": calibration.scores.tolist(),
            "data": fingerprint,
            "line": [line, version],
            "recipe": recipe.model_dump(mode="json"),
            "settings": fitted.settings.to_array().tolist(),
            "student": [fitted.model.student_maps, weights_digest(student)] if student else None,
            "teacher": fitted.model.teacher.fingerprint,
        }
    )
    say("exporting the graph")
    graph = LineGraph(fitted.model, fitted.settings, calibration.scores, key)
    export_onnx(graph, recipe.size, folder / "model.onnx")
    get_target(target).compile(graph, folder / "model.onnx", folder)
    (folder / "model.py").write_text((publish.LINE_STAGES / "discrepancy.py").read_text())
    embedding, discrepancy = _shapes(fitted.model, recipe.size)
    manifest = Manifest(
        line=line,
        version=version,
        detector=detector,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        flawline=__version__,
        recipe=recipe.model_dump(mode="json"),
        seed=seed,
        size=recipe.size,
        patches=embedding[0],
        dimensions=embedding[1],
        discrepancy=discrepancy,
        fused=True,
        data=DataFacts(
            name=dataset.name,
            fingerprint=fingerprint,
            bank_normals=fitted.bank_normals,
            calibration_normals=len(calibration.scores),
            labelled_defects=fitted.positive.labelled,
            synthetic_defects=fitted.positive.synthetic,
        ),
        teacher=fitted.model.teacher.source,
        teacher_fingerprint=fitted.model.teacher.fingerprint,
        positive_bank="no memory banks" if memory is None else fitted.positive.statement,
        training=_training_facts(fitted, detector),
        fusion=fitted.settings.fusion_statement,
        target=target,
        calibration=CalibrationFacts(
            method=calibration.method,
            asked_false_alarm=calibration.asked_false_alarm,
            false_alarm=calibration.false_alarm,
            normals=len(calibration.scores),
            promise=calibration.promise,
            pixel_threshold=calibration.pixel_threshold,
            scores=tuple(calibration.scores.tolist()),
        ),
        metrics=None,
        parity=(),
        libraries=_versions() | {"python": platform.python_version()},
        artefact_key=key,
        files={path.name: sha256(path) for path in sorted(folder.iterdir())},
    )
    manifest.write(folder)
    return manifest


def _save_bank(bank: MemoryBank, path: Path) -> None:
    tensors = {"vectors": bank.vectors.cpu().numpy(), "neighbours": bank.neighbours.cpu().numpy()}
    save_file(tensors, path)
    path.chmod(0o644)  # safetensors writes for the owner alone; a container's server is another user


def weights_digest(module: nn.Module) -> str:
    """SHA-256 (hex) of all parameters and buffers, with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    """Versions of LIBRARIES; a target that is not used here need not be installed."""
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = installed_version(name)
    return found


def _training_facts(fitted: FittedLine, detector: str) -> TrainingFacts | None:
    student, _ = parse_detector(detector)
    if student is None or fitted.training is None:
        return None
    how = fitted.training
    return TrainingFacts(detector=student, steps=how.steps, seconds=how.seconds, losses=how.losses)


def _shapes(line: Line, size: int) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Patches and dimensions of the embedding, (0, 0) without banks; rows and columns of the discrepancy."""
    with torch.inference_mode():
        embedding, discrepancy = line(torch.zeros((1, size, size, 3), dtype=torch.uint8))
    return (
        (0, 0) if embedding is None else (embedding.shape[1], embedding.shape[2]),
        None if discrepancy is None else (discrepancy.shape[1], discrepancy.shape[2]),
    )


def _comparison(dataset: Dataset, most: int) -> Sequence[Sample]:
    """Pictures on which paths are compared: the test split, evenly thinned to `most`; else training pictures."""
    samples = dataset.test or (*dataset.train_normals, *dataset.train_defects)
    step = max(1, -(-len(samples) // most))
    return samples[::step]


def write_build_report(path: Path, built: BuiltLine) -> None:
    """HTML report of the pictures that were compared, with everything the manifest says in words."""
    manifest = built.manifest
    facts = {
        "Line": f"{manifest.line}, version {manifest.version}",
        "Detector": manifest.detector,
        "Data": manifest.data.name,
        "Data fingerprint": manifest.data.fingerprint,
        "Teacher": f"{manifest.teacher} ({manifest.teacher_fingerprint[:12]})",
        "Adaptation": AdaptConfig.model_validate(manifest.recipe["adapt"]).statement,
        "Positive bank": manifest.positive_bank,
        "Student": "none" if manifest.training is None else manifest.training.statement,
        "Fusion": manifest.fusion or "none: one detector alone",
        "Promise": manifest.calibration.promise,
        "Served equals trained": statement(manifest.parity),
        "Target": manifest.target,
        "Built": manifest.created,
        "Versions": ", ".join(f"{name} {number}" for name, number in manifest.libraries.items()),
    }
    title = f"Line {manifest.line}, version {manifest.version}"
    losses = manifest.training.losses if manifest.training is not None else ()
    write_report(path, title=title, facts=facts, evaluations=[built.evaluation], losses=losses)
