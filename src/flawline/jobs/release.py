"""Release a fitted line: save, export, compile, prove that it is served as it was trained, publish."""

import json
import platform
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from itertools import count
from pathlib import Path
from typing import Any

from flawline import __version__
from flawline.artefact.manifest import FILE as MANIFEST
from flawline.artefact.manifest import REFERENCE, Manifest, Origin, artefact_key, hashes
from flawline.data import Sample
from flawline.data.depth import depth_statement
from flawline.detectors.export import LineGraph, export_onnx
from flawline.detectors.fitted import CHOICE, FittedLine
from flawline.detectors.odd import odd_statement
from flawline.files import room_in
from flawline.jobs.prove import demand_parity, prove, statement
from flawline.progress import say
from flawline.report.evaluation import Evaluation
from flawline.report.page import write_report
from flawline.repository import names, publish
from flawline.scoring.picture import EIGHT
from flawline.serving.tritonserver import check_server
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
MOST_REFERENCES, MOST_BYTES = 16, 16 << 20
LEAST_ROOM = 60_000_000
"""Bytes that publishing a line takes with the default teacher, twice, and with large pictures to prove it on."""


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
    """Check all that publishing will need, and keep other builds of the line away; gives a folder to build in.

    Raises:
        RecipeError: a name that cannot be one, a target that is not here, or another build of this line.
        OutputError: as flawline.repository.publish.check_publishing.
        ServerError: as flawline.serving.tritonserver.check_server.

    """
    names.check_line(line)
    get_target(target)
    check_server()
    return publish.staging_area(repository, line, _room(repository, line))


def _room(repository: Path, line: str) -> int:
    """Bytes that a version of a line will take while it is published, by what the last one takes."""
    known = publish.versions(repository, line)
    last = repository / names.discrepancy(line) / str(known[-1]) if known else None
    size = sum(path.stat().st_size for path in last.rglob("*") if path.is_file()) if last else 0
    return max(LEAST_ROOM, 3 * size)  # the version, the copy that is kept until it is published, and some air


@contextmanager
def kept_until_published(
    fitted: FittedLine, samples: Sequence[Sample], line: str, *, repository: Path, target: str, fused: bool
) -> Iterator[None]:
    """Keep what was trained on disk while the block publishes it; where that fails it stays, and the place is said.

    Args:
        fitted: the line; it is moved to the CPU.
        samples: pictures on which it is compared, of which some are kept.
        line: name under which it is to be served.
        repository: Triton model repository; the copy lies beside it if there is room.
        target: name of a target.
        fused: whether the line is also published as one model.

    """
    place = _keep(fitted, samples, line, repository=repository, target=target, fused=fused)
    try:
        yield
    except BaseException:
        if place is not None:
            command = _command(place, line, repository, target)
            say(f"What was trained is kept in {place}; publish it without training by: {command}")
        raise
    if place is not None:
        _drop(place)


def tell_kept(repository: Path, line: str, target: str) -> None:
    """Say which lines an earlier build trained and could not publish, where it was killed perhaps."""
    home = repository.resolve()
    for place in sorted((home.parent / f"{home.name}.unpublished").glob("*")):
        if place.name.partition("-")[0] == line and (place / MANIFEST).is_file():
            command = _command(place, line, repository, target)
            say(f"An earlier build left what it trained in {place}; to publish that: {command}")


def _command(place: Path, line: str, repository: Path, target: str) -> str:
    words = ["flawline", "compile", "--line", line, "--target", target, "--from", str(place)]
    return shlex.join([*words, "--repository", str(repository)])


def _keep(
    fitted: FittedLine, samples: Sequence[Sample], line: str, *, repository: Path, target: str, fused: bool
) -> Path | None:
    """Write what was trained to the first of some places that takes it, and give the place; None if none does."""
    fitted.model.moved("cpu")
    home = repository.resolve()
    for parent in (lambda: home.parent, Path.cwd, lambda: Path(tempfile.gettempdir())):
        place = None
        try:
            place = _free_name(parent() / f"{home.name}.unpublished" / line)
            version = publish.next_version(repository, line)
            _write_line(place, fitted, samples, line, target, version=version, fused=fused)
        except BaseException as error:
            if place is not None:
                _drop(place)
            if not isinstance(error, Exception):
                raise
            continue  # whatever a full or forbidden disk made of it: the next place is tried
        return place
    say("There is no room to keep what was trained until it is published.")
    return None


def _drop(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    with suppress(OSError):  # others are kept there
        place.parent.rmdir()


def _free_name(wanted: Path) -> Path:
    """Make a folder of a name that is free, for this user alone: what an earlier build kept stays."""
    for number in count(1):
        place = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with suppress(FileExistsError):
            place.mkdir(mode=0o700, parents=True)
            return place
    raise AssertionError


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
    version = publish.next_version(repository, line)
    with room_in(staging, repository):
        publish.place_shared_stages(trial)
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
    manifest = _write_line(folder, fitted, samples, line, target, version=version, origin=origin)
    say("exporting the graph")
    graph = LineGraph(fitted.model, manifest.artefact_key)
    export_onnx(graph, fitted.settings.size, folder / "model.onnx")
    get_target(target).compile(graph, folder / "model.onnx", folder)
    (folder / "model.py").write_text(publish.GRAPH_STAGE)
    manifest = manifest.model_copy(update={"files": hashes(folder)})
    manifest.write(folder)
    return manifest


def _write_line(
    folder: Path,
    fitted: FittedLine,
    samples: Sequence[Sample],
    line: str,
    target: str,
    *,
    version: int,
    origin: Origin | None = None,
    fused: bool = True,
) -> Manifest:
    """Write what was trained, from which all else can be made again: weights, rules, references, a manifest."""
    kept = fitted.save(folder)
    description = fitted.model.teacher.description()
    key = artefact_key(
        {"files": kept, "line": [line, version], "recipe": fitted.recipe, "teacher": description}
    )
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
        fused=fused,
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
