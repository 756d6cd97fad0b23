"""Release a fitted line: save, export, compile, prove that it is served as it was trained, publish."""

import json
import platform
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from flawline import __version__
from flawline.artefact.manifest import Manifest, Origin, artefact_key, hashes
from flawline.data import Sample
from flawline.data.depth import depth_statement
from flawline.detectors.export import LineGraph, export_onnx
from flawline.detectors.fitted import CHOICE, FittedLine
from flawline.detectors.odd import odd_statement
from flawline.jobs.prove import demand_parity, prove, statement
from flawline.progress import say
from flawline.report.evaluation import Evaluation
from flawline.report.page import write_report
from flawline.repository import names, publish
from flawline.scoring.picture import EIGHT
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
REFERENCE = "reference"
"""Folder of an artefact with pictures on which a version made from it is proved."""
MOST_REFERENCES, MOST_BYTES = 16, 16 << 20


@dataclass(frozen=True)
class ReleasedLine:
    """A published line.

    Attributes:
        manifest: what its artefact says of itself.
        evaluation: eager torch's answers on the pictures that parity compared.
        folder: its artefact.
        holdout: eager torch's answers on good pictures of another day; None without such.

    """

    manifest: Manifest
    evaluation: Evaluation
    folder: Path
    holdout: Evaluation | None = None


def reserve(repository: Path, line: str, target: str) -> AbstractContextManager[Path]:
    """Check name and target, and keep other builds of the line away; gives a folder to build in.

    Raises:
        RecipeError: a name that cannot be one, a target that is not here, or another build of this line.

    """
    names.check_line(line)
    get_target(target)
    return publish.staging_area(repository, line)


def release(
    fitted: FittedLine,
    samples: Sequence[Sample],
    line: str,
    staging: Path,
    *,
    repository: Path,
    target: str,
    fused: bool = True,
    labelled: bool = True,
    metrics: dict[str, Any] | None = None,
    origin: Origin | None = None,
) -> ReleasedLine:
    """Publish a fitted line as the next version, if it is served as eager torch answers.

    Args:
        fitted: the line; it is moved to the CPU, where it will be served.
        samples: pictures on which all paths are compared.
        line: name under which it is served.
        staging: folder from `reserve`.
        repository: Triton model repository.
        target: name of a target.
        fused: whether the line is also published as one model, `<line>_fused`.
        labelled: whether the labels of `samples` are known, so that figures can be measured.
        metrics: figures to state where they cannot be measured.
        origin: version that it was made from.

    Raises:
        FlawlineError: the server does not load it, or it answers otherwise. What was published stays as it was.

    """
    fitted.model.moved("cpu")
    trial = staging / "model_repository"
    publish.place_shared_stages(trial)
    version = publish.next_version(repository, line)
    draft = write_artefact(
        staging / "artefact", fitted, samples, line, target, version=version, origin=origin
    )
    publish.write_models(trial, draft, staging / "artefact")  # with the fused model, published or not
    artefact = trial / names.discrepancy(line) / str(version)
    evaluation, parity = prove(fitted, artefact, trial, samples)
    evaluation.show_odd(fitted.odd_pictures)
    demand_parity(parity)
    metrics = json.loads(evaluation.result().model_dump_json()) if labelled else metrics
    manifest = draft.model_copy(update={"parity": tuple(parity), "metrics": metrics, "fused": fused})
    manifest.write(artefact)
    publish.place_shared_stages(repository)
    publish.write_models(repository, manifest, artefact)
    return ReleasedLine(manifest, evaluation, repository / names.discrepancy(line) / str(version))


def write_artefact(
    folder: Path,
    fitted: FittedLine,
    samples: Sequence[Sample],
    line: str,
    target: str,
    *,
    version: int,
    origin: Origin | None = None,
) -> Manifest:
    """Write everything that a line is: weights, rules, graph, stage, and a manifest without parity figures yet."""
    kept = fitted.save(folder)
    description = fitted.model.teacher.description()
    key = artefact_key(
        {"files": kept, "line": [line, version], "recipe": fitted.recipe, "teacher": description}
    )
    say("exporting the graph")
    graph = LineGraph(fitted.model, key)
    export_onnx(graph, fitted.settings.size, folder / "model.onnx")
    get_target(target).compile(graph, folder / "model.onnx", folder)
    (folder / "model.py").write_text(publish.GRAPH_STAGE)
    _keep_references(folder / REFERENCE, samples)
    shapes = fitted.shapes()
    manifest = Manifest(
        line=line,
        version=version,
        detector=fitted.detector,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        flawline=__version__,
        recipe=fitted.recipe,
        seed=fitted.seed,
        size=fitted.settings.size,
        windows=fitted.settings.windows,
        bits=fitted.settings.bits,
        fused=True,
        data=fitted.data,
        teacher=description,
        parts=tuple(part.facts(shapes) for part in fitted.model.parts),
        fusion=fitted.settings.fusion_statement,
        target=target,
        calibration=fitted.calibration_facts(),
        odd_normals=fitted.odd_normals,
        ignored=fitted.ignored_facts(),
        metrics=None,
        parity=(),
        origin=origin,
        search=fitted.search,
        libraries=_libraries(),
        artefact_key=key,
        files=hashes(folder),
    )
    manifest.write(folder)
    return manifest


def _libraries() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = installed_version(name)
        except PackageNotFoundError:  # a target that is not installed here
            continue
    return found


def _keep_references(folder: Path, samples: Sequence[Sample]) -> None:
    """Copy some pictures, evenly spread: good and defective ones lie in different places of a split."""
    folder.mkdir()
    step = max(1, -(-len(samples) // MOST_REFERENCES))
    room = MOST_BYTES
    for number, sample in enumerate(samples[::step]):
        room -= sample.image.stat().st_size
        if room < 0:
            break
        shutil.copyfile(sample.image, folder / f"{number:03d}{sample.image.suffix.lower()}")


def references(folder: Path) -> tuple[Sample, ...]:
    """Pictures that an artefact keeps to prove versions made from it; their labels are not known."""
    paths = sorted((folder / REFERENCE).iterdir()) if (folder / REFERENCE).is_dir() else []
    return tuple(Sample(path, "unknown", None, path.name, "test") for path in paths)


def write_build_report(path: Path, built: ReleasedLine) -> None:
    """HTML report of the pictures that were compared, with everything the manifest says in words."""
    manifest = built.manifest
    facts = {
        "Line": f"{manifest.line}, version {manifest.version}",
        "Detector": manifest.detector,
        **({} if manifest.search is None else {CHOICE: manifest.search.statement}),
        "Data": manifest.data.name,
        "Data fingerprint": manifest.data.fingerprint,
        "Teacher": f"{manifest.teacher['source']} ({manifest.teacher['fingerprint'][:12]})",
        "Adaptation": AdaptConfig.model_validate(manifest.recipe["adapt"]).statement,
        **{heading: text for part in manifest.parts for heading, text in part.statements.items()},
        "Fusion": manifest.fusion or "none: one detector alone",
        "Promise": manifest.calibration.promise,
        "What limits it": manifest.calibration.limit or "no odd good picture",
        "Odd good pictures": odd_statement(manifest.odd_normals) or "none stand out",
        "Ignored": manifest.ignored.statement if manifest.ignored else "nothing",
        "Served equals trained": statement(manifest.parity),
        **({"Bits": depth_statement(manifest.bits)} if manifest.bits > EIGHT else {}),
        **({"Windows": manifest.windows.statement(manifest.size)} if manifest.windows else {}),
        "Target": manifest.target,
        "Built": manifest.created,
        "Versions": ", ".join(f"{name} {number}" for name, number in manifest.libraries.items()),
    }
    title = f"Line {manifest.line}, version {manifest.version}"
    losses = next((part.training.losses for part in manifest.parts if part.training is not None), ())
    write_report(
        path,
        title=title,
        facts=facts,
        evaluations=[built.evaluation],
        losses=losses,
        holdouts=[] if built.holdout is None else [built.holdout],
        unseen=manifest.metrics is not None,
    )
