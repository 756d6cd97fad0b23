"""Publish versions of lines into a model repository, list them, go back to an older one.

A line's version N is folder N in each of its models; the artefact, with its manifest, is
`<line>_discrepancy/N`. Version folders are written once and never changed. What is live is said by the models'
config.pbtxt alone, which pin one version and are replaced atomically, the front doors last.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flawline.artefact.manifest import FILE as MANIFEST
from flawline.artefact.manifest import Manifest, verify
from flawline.errors import ArtefactError, OutputError, RecipeError
from flawline.files import check_space, write_atomically
from flawline.repository import names
from flawline.repository.assemble import line_models, native_discrepancy
from flawline.repository.model_config import ModelConfig, changed
from flawline.targets import TARGETS
from flawline_client.places import what_forbids

CONFIG = "config.pbtxt"
CHANGES = "changes.pbtxt"
"""File beside the configuration of a shared stage with what an operator wants otherwise; it outlives updates."""
STAGE_FILES = ("1/model.py", CONFIG)
"""Files of a shared stage."""
STAGE = '"""{what}"""\n\nfrom flawline.serving.{module} import {name} as TritonPythonModel  # noqa: F401\n'
"""A model.py of a line. It names code and holds none, so that old artefacts run on new versions of Flawline."""
GRAPH_STAGE = STAGE.format(what="The graph of a line.", module="graph_model", name="GraphModel")
FUSED_STAGE = STAGE.format(what="A whole line as one model.", module="fused_model", name="FusedModel")


@dataclass(frozen=True)
class LineStatus:
    """A line as `flawline lines` prints it. `problem` is None when its live version is whole."""

    line: str
    live: int | None
    versions: tuple[int, ...]
    manifest: Manifest | None
    problem: str | None


def shared_stages() -> Path:
    """Folder of the hand-written shared stages: in the source tree, or inside an installed wheel."""
    installed = Path(__file__).parent / "shared"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "model_repository"


def place_shared_stages(repository: Path) -> None:
    """Copy the shared stages into a repository, replacing those of another version of Flawline.

    What an operator has written into CHANGES of a stage is laid over its configuration.

    Raises:
        OutputError: a stage cannot be written, a model of others has its name, or CHANGES cannot be used.

    """
    source = shared_stages()
    if source.resolve() == repository.resolve():
        return
    _check_shared(repository)
    for name in names.SHARED:
        for file in STAGE_FILES:
            content = (source / name / file).read_text()
            if file == CONFIG and (repository / name / CHANGES).exists():
                content = _with_changes(content, repository / name / CHANGES)
            target = repository / name / file
            if not target.is_file() or target.read_text(errors="replace") != content:
                try:
                    write_atomically(target, content, over=True)
                except OSError as error:
                    msg = (
                        f"{repository} has the shared stages of another version of Flawline, or none, and {target} "
                        f"cannot be written ({error.strerror}); run this once where it can be"
                    )
                    raise OutputError(msg) from error


def _with_changes(content: str, changes: Path) -> str:
    try:
        return changed(content, changes.read_text())
    except (OSError, UnicodeDecodeError, ArtefactError) as error:
        msg = f"{changes} cannot be used: {error}; correct it, or remove it to have the stage as Flawline made it"
        raise OutputError(msg) from error


def _check_shared(repository: Path) -> None:
    """Raise OutputError where a model of others has the name of a shared stage."""
    for name in names.SHARED:
        model, config = (repository / name / file for file in STAGE_FILES)
        if not model.is_file() and not config.is_file():
            continue
        known = (shared_stages() / name / CONFIG).read_text()
        same = config.is_file() and config.read_text(errors="replace") == known
        if not same and not _is_stage(repository / name):
            raise _of_others(repository, name)


def check_publishing(repository: Path, line: str, needed: int = 0) -> None:
    """Refuse, before any work is done, a repository into which a version of a line cannot be published.

    The repository is made if it is missing.

    Args:
        repository: Triton model repository.
        line: name of the line.
        needed: bytes that a version takes.

    Raises:
        OutputError: it is no folder, this user may not write there, a model of others has the name of one of the
            line's, or the disk has no room.

    """
    if os.path.lexists(repository) and not repository.is_dir():
        msg = f"{repository} is no folder; name a folder with --repository"
        raise OutputError(msg)
    try:
        repository.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = (
            f"the model repository {repository} cannot be made ({error.strerror}); name another --repository"
        )
        raise OutputError(msg) from error
    models = (line, names.pixels(line), names.fused(line), names.discrepancy(line))
    for place in (repository, *(repository / name for name in (*models, *names.SHARED))):
        if place.exists() and what_forbids(place):
            msg = (
                f"the model repository {repository} cannot be published into: {place} cannot be written; "
                "change its rights, or name another --repository"
            )
            raise OutputError(msg)
    _check_shared(repository)
    published = any((repository / names.discrepancy(line)).glob(f"*/{MANIFEST}"))
    for name in models:
        # A line may be published without its fused model, and its name be taken since.
        known = published if name != names.fused(line) else _is_stage(repository / name)
        if (repository / name / CONFIG).exists() and not known:
            raise _of_others(repository, name)
    check_space(repository, needed, f"publishing line '{line}'")


def _is_stage(model: Path) -> bool:
    """Whether a model's code is Flawline's."""
    return any("flawline" in code.read_text(errors="replace") for code in model.glob("*/model.py"))


def _of_others(repository: Path, name: str) -> OutputError:
    return OutputError(
        f"{repository / name} is a model that Flawline did not make, and a line needs this name; "
        "name another --repository, or another --line"
    )


@contextmanager
def staging_area(repository: Path, line: str, needed: int = 0) -> Iterator[Path]:
    """A folder for one build of a line, removed at the end.

    It lies beside the repository, or within it where the parent cannot be written or is on another disk: a mount.

    Args:
        repository: Triton model repository.
        line: name of the line.
        needed: bytes that a version takes.

    Raises:
        RecipeError: another build of this line is under way.
        OutputError: as `check_publishing`.

    """
    check_publishing(repository, line, needed)
    area = _area(repository.resolve())
    check_space(area, needed, f"building line '{line}'")
    with _locked(area, line) as alone:
        if not alone:
            msg = f"another build of line '{line}' into {repository} is under way; wait for it to end"
            raise RecipeError(msg)
        folder = area / line
        shutil.rmtree(folder, ignore_errors=True)  # left by a build that was killed
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _area(repository: Path) -> Path:
    parent = repository.parent
    if parent.stat().st_dev == repository.stat().st_dev and what_forbids(parent) is None:
        return parent / f".{repository.name}.building"
    return repository / ".building"


@contextmanager
def _locked(area: Path, line: str) -> Iterator[bool]:
    """Hold the lock of a line while the block runs, and tell whether it was free; nothing of it stays behind."""
    path = area / f"{line}.lock"
    while True:
        area.mkdir(exist_ok=True)
        try:
            lock = path.open("w")
        except FileNotFoundError:  # another build has just taken the area away
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(lock.fileno())):
                continue  # another build has just taken this lock away
            try:
                yield True
            finally:
                path.unlink(missing_ok=True)
                with suppress(OSError):  # another build's lock lies there
                    area.rmdir()
            return


def versions(repository: Path, line: str) -> tuple[int, ...]:
    """Version numbers of a line, ascending; empty when it was never published."""
    folder = repository / names.discrepancy(line)
    found = (child.name for child in folder.iterdir()) if folder.is_dir() else ()
    return tuple(sorted(int(name) for name in found if name.isdecimal() and not name.startswith("0")))


def live_version(repository: Path, line: str) -> int | None:
    """The version that the front door `<line>` serves; None when there is none or its config is damaged."""
    config = _config(repository / line / CONFIG)
    return config.versions[0] if config is not None and config.versions else None


def live_artefact(repository: Path, line: str) -> Path:
    """Folder of the live version's artefact. Raises RecipeError if the line has none."""
    live = live_version(repository, line)
    if live is None:
        msg = f"{repository} has no live line '{line}'; 'flawline lines' shows what is published"
        raise RecipeError(msg)
    return repository / names.discrepancy(line) / str(live)


def _config(path: Path) -> ModelConfig | None:
    """What a config.pbtxt says; None when it is missing or damaged."""
    try:
        return ModelConfig.from_pbtxt(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ArtefactError):
        return None


def write_models(repository: Path, manifest: Manifest, artefact: Path) -> None:
    """Make the models of a version live: version folders first, then configurations, the front doors last.

    `artefact` is the finished artefact folder; it is moved to its place if it is not there yet. An error or
    Ctrl-C leaves the version live that was; after a power cut between two files, `list_lines` names the mixture.
    """
    graph = names.discrepancy(manifest.line)
    home = repository / graph / str(manifest.version)
    if artefact != home:
        home.parent.mkdir(parents=True, exist_ok=True)
        _move(artefact, home)
    models = line_models(manifest)
    for name in models:  # an ensemble's version folder is empty
        (repository / name / str(manifest.version)).mkdir(parents=True, exist_ok=True)
    if manifest.fused:
        stage = repository / names.fused(manifest.line) / str(manifest.version) / "model.py"
        write_atomically(stage, FUSED_STAGE, over=True)
    doors = {manifest.line, names.pixels(manifest.line)}
    native = native_discrepancy(manifest, TARGETS.get(manifest.target).native)
    configs = {repository / graph / "configs" / "native.pbtxt": native}
    for name in sorted(models, key=lambda name: name in doors):
        configs[repository / name / CONFIG] = models[name]
    _replace_together({path: config.to_pbtxt() for path, config in configs.items()})
    if not manifest.fused:
        shutil.rmtree(repository / names.fused(manifest.line), ignore_errors=True)
    _sync(repository)


def _move(folder: Path, home: Path) -> None:
    """Give a folder its name in one step, also where it comes from another disk."""
    try:
        folder.rename(home)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = home.parent / f"tmp.{home.name}"  # no version for Triton, which reads leading digits
        shutil.rmtree(copy, ignore_errors=True)
        try:
            shutil.copytree(folder, copy)
            copy.rename(home)
        except BaseException:
            shutil.rmtree(copy, ignore_errors=True)
            raise


def _replace_together(contents: dict[Path, str]) -> None:
    """Replace several files, or none of them: after an error or Ctrl-C all are as they were."""
    before = {path: path.read_text(errors="replace") if path.is_file() else None for path in contents}
    try:
        for path, content in contents.items():
            write_atomically(path, content, over=True)
    except BaseException:
        for path, old in before.items():
            if old is None:
                path.unlink(missing_ok=True)
            else:
                write_atomically(path, old, over=True)
        raise


def list_lines(repository: Path) -> list[LineStatus]:
    """All lines of a repository and whether their live versions are whole; checks every file's SHA-256.

    Raises RecipeError if there is no such folder.
    """
    if not repository.is_dir():
        msg = f"{repository} is no folder; name the model repository that 'flawline build' published into"
        raise RecipeError(msg)
    suffix = names.discrepancy("")
    lines = sorted(p.name.removesuffix(suffix) for p in repository.glob(f"*{suffix}") if p.is_dir())
    return [_status(repository, line) for line in lines]


def _status(repository: Path, line: str) -> LineStatus:
    live, manifest, problem = live_version(repository, line), None, None
    if live is None:
        problem = f"{repository / line / CONFIG}: missing or damaged; roll back to a version or build again"
    else:
        try:
            manifest = verify(repository / names.discrepancy(line) / str(live))
            _check_configs(repository, manifest)
        except ArtefactError as error:
            problem = str(error)
    return LineStatus(line, live, versions(repository, line), manifest, problem)


def _check_configs(repository: Path, manifest: Manifest) -> None:
    """Raise ArtefactError if a model of the line is configured for another version."""
    for name, expected in line_models(manifest).items():
        path = repository / name / CONFIG
        if _config(path) != expected:
            msg = (
                f"{path}: missing, changed or of another version than {manifest.version}, which is live; "
                f"run 'flawline rollback --line {manifest.line} --to {manifest.version}' to restore it"
            )
            raise ArtefactError(msg)


def rollback(repository: Path, line: str, to: int | None) -> Manifest:
    """Make an older version of a line live: `to`, or the newest one below the live one.

    Raises:
        RecipeError: the line or version does not exist, or there is none below.
        ArtefactError: that version is damaged; the live one stays live.

    """
    known = versions(repository, line)
    if not known:
        msg = f"{repository} has no line '{line}'; 'flawline lines' shows what is published"
        raise RecipeError(msg)
    if to is None:
        live = live_version(repository, line) or known[-1] + 1
        older = [number for number in known if number < live]
        if not older:
            msg = f"line '{line}' has no version before {live}; there are: {', '.join(map(str, known))}"
            raise RecipeError(msg)
        to = older[-1]
    if to not in known:
        msg = f"line '{line}' has no version {to}; there are: {', '.join(map(str, known))}"
        raise RecipeError(msg)
    home = repository / names.discrepancy(line) / str(to)
    manifest = verify(home)
    with staging_area(repository, line):  # keeps a build from publishing at the same moment
        write_models(repository, manifest, home)
    return manifest


def next_version(repository: Path, line: str) -> int:
    """One more than the highest ever published; numbers are not used again after a rollback."""
    return max(versions(repository, line), default=0) + 1


def _sync(folder: Path) -> None:
    """Ask the disk to keep what was renamed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
