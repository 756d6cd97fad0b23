"""Publishing versions of lines: what is live, going back, and what an interruption leaves."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from google.protobuf import text_format
from small_lines import write_artefact
from tritonclient.grpc.model_config_pb2 import ModelConfig as Message

from flawline.artefact.manifest import Manifest
from flawline.errors import ArtefactError, OutputError, RecipeError
from flawline.repository import names, publish
from flawline.repository.model_config import ModelConfig
from flawline.repository.publish import (
    CONFIG,
    list_lines,
    live_version,
    next_version,
    rollback,
    staging_area,
    versions,
)

LINE = "bottle"
MODELS = ("bottle", "bottle_pixels", "bottle_discrepancy", "bottle_fused")


def add_version(repository: Path, version: int, line: str = LINE, **changes: object) -> Manifest:
    with staging_area(repository, line) as staging:
        manifest = write_artefact(staging / "artefact", line, version, **changes)
        publish.write_models(repository, manifest, staging / "artefact")
    return manifest


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    add_version(tmp_path / "repository", 1)
    return tmp_path / "repository"


def config_of(repository: Path, model: str) -> ModelConfig:
    return ModelConfig.from_pbtxt((repository / model / CONFIG).read_text())


def assert_served(repository: Path, version: int, fused: bool = True) -> None:
    """All doors lead to `version`, through stages that load it and have its files."""
    assert live_version(repository, LINE) == version
    for model in MODELS if fused else MODELS[:-1]:
        config = config_of(repository, model)
        assert config.versions == (version,)
        assert (repository / model / str(version)).is_dir()
        if config.backend == "python":
            assert (repository / model / str(version) / "model.py").is_file()
        for step in config.ensemble_steps:
            if step.model not in names.SHARED:
                assert step.version == version
    assert (repository / names.fused(LINE)).is_dir() == fused
    native = (repository / names.discrepancy(LINE) / "configs" / "native.pbtxt").read_text()
    assert ModelConfig.from_pbtxt(native).versions == (version,)
    (status,) = list_lines(repository)
    assert status.problem is None
    assert status.manifest is not None
    assert (status.live, status.manifest.version) == (version, version)


def test_a_first_version_is_live(repository: Path) -> None:
    assert_served(repository, 1)
    assert versions(repository, LINE) == (1,)
    assert [path.name for path in repository.parent.iterdir()] == ["repository"], "nothing is left beside it"


def test_an_empty_repository_has_no_lines(tmp_path: Path) -> None:
    assert list_lines(tmp_path) == []
    assert versions(tmp_path, LINE) == ()
    assert live_version(tmp_path, LINE) is None
    assert next_version(tmp_path, LINE) == 1


def test_versions_follow_each_other_and_are_never_counted_twice(repository: Path) -> None:
    add_version(repository, next_version(repository, LINE))
    assert_served(repository, 2)
    assert rollback(repository, LINE, None).version == 1
    assert_served(repository, 1)
    assert versions(repository, LINE) == (1, 2)
    with pytest.raises(RecipeError, match="has no version before 1; there are: 1, 2"):
        rollback(repository, LINE, None)
    assert next_version(repository, LINE) == 3
    add_version(repository, 3)
    assert_served(repository, 3)
    assert rollback(repository, LINE, 1).version == 1
    assert_served(repository, 1)
    assert rollback(repository, LINE, 3).version == 3
    assert rollback(repository, LINE, None).version == 2
    assert_served(repository, 2)


def test_version_folders_are_never_changed(repository: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in repository.glob("*/1/*") if p.is_file()}

    before = content()
    assert len(before) == 10, "eight files and a manifest of the artefact, and the stage of the fused model"
    add_version(repository, 2)
    rollback(repository, LINE, 1)
    assert content() == before


def test_a_version_without_the_fused_model_takes_it_away(repository: Path) -> None:
    add_version(repository, 2, fused=False)
    assert_served(repository, 2, fused=False)
    rollback(repository, LINE, 1)
    assert_served(repository, 1)


@pytest.mark.parametrize(
    ("line", "to", "message"),
    [
        ("botle", None, "has no line 'botle'"),
        (LINE, None, "has no version before 1; there are: 1"),
        (LINE, 7, "has no version 7; there are: 1"),
    ],
)
def test_going_back_to_what_is_not_there(repository: Path, line: str, to: int | None, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        rollback(repository, line, to)
    assert_served(repository, 1)


def test_going_back_to_a_damaged_version_is_refused(repository: Path) -> None:
    add_version(repository, 2)
    (repository / names.discrepancy(LINE) / "1" / "model.bin").write_text("something else")
    with pytest.raises(ArtefactError, match=r"bottle_discrepancy/1/model\.bin: damaged"):
        rollback(repository, LINE, None)
    assert_served(repository, 2)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("bottle_discrepancy/1/bank_negative.safetensors", b"x", "bank_negative.safetensors: damaged"),
        ("bottle_discrepancy/1/model.xml", None, "model.xml: missing"),
        ("bottle_discrepancy/1/manifest.json", b"{", "manifest.json: the manifest cannot be read"),
        ("bottle_pixels/config.pbtxt", None, "bottle_pixels/config.pbtxt: missing, changed"),
        ("bottle_fused/config.pbtxt", b"\xff\xfe\0", "bottle_fused/config.pbtxt: missing, changed"),
        (
            "bottle_discrepancy/config.pbtxt",
            b'name: "x"',
            "bottle_discrepancy/config.pbtxt: missing, changed",
        ),
        ("bottle/config.pbtxt", None, "bottle/config.pbtxt: missing or damaged"),
        ("bottle/config.pbtxt", b"\xff\xfe\0", "bottle/config.pbtxt: missing or damaged"),
    ],
)
def test_what_is_wrong_with_a_line_is_listed(
    repository: Path, file: str, content: bytes | None, named: str
) -> None:
    add_version(repository, 1, line="other")
    if content is None:
        (repository / file).unlink()
    else:
        (repository / file).write_bytes(content)
    bottle, other = list_lines(repository)
    assert bottle.problem is not None
    assert named in bottle.problem
    assert (other.line, other.live, other.problem) == ("other", 1, None)


@pytest.mark.parametrize("model", MODELS)
def test_a_crash_between_two_configurations_is_listed_and_mended_as_it_says(
    repository: Path, tmp_path: Path, model: str
) -> None:
    """Configurations of two versions, as a loss of power may leave them."""
    newer = tmp_path / "newer"
    shutil.copytree(repository, newer)
    add_version(newer, 2)
    shutil.copytree(newer / names.discrepancy(LINE) / "2", repository / names.discrepancy(LINE) / "2")
    shutil.copy(newer / model / CONFIG, repository / model / CONFIG)
    (status,) = list_lines(repository)
    assert status.problem is not None
    assert f"run 'flawline rollback --line bottle --to {status.live}' to restore it" in status.problem
    rollback(repository, LINE, status.live)
    assert_served(repository, 2 if model == LINE else 1)


class Interrupted(Exception):  # noqa: N818
    """Stands for a full disk."""


STEPS = [(Path, name) for name in ("rename", "replace", "write_text", "mkdir")] + [
    (os, "fsync"),
    (shutil, "rmtree"),
]


@contextmanager
def stopped_at(
    number: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """Raise once, at the `number`-th change of the disk; yields the names of the changes so far."""
    done: list[str] = []

    def failing(name: str, change: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            done.append(name)
            if len(done) == number:
                raise error
            return change(*arguments, **options)

        return step

    with monkeypatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, failing(name, getattr(owner, name)))
        yield done


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
@pytest.mark.parametrize("fused", [True, False])
def test_an_interruption_at_any_step_leaves_a_line_that_is_served(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], fused: bool
) -> None:
    number, outcomes = 0, []
    while True:
        number += 1
        place = tmp_path / str(number) / "repository"
        shutil.copytree(repository, place)
        artefact = place.parent / "artefact"
        manifest = write_artefact(artefact, LINE, 2, fused=fused)
        with stopped_at(number, error, monkeypatch) as done:
            try:
                publish.write_models(place, manifest, artefact)
            except error:
                pass
            else:
                break
        live = live_version(place, LINE)
        assert live is not None
        outcomes.append(live)
        if not (live == 2 and done[number - 1] == "rmtree"):  # then the old fused model is left over
            assert_served(place, live, fused or live == 1)
        add_version(place, next_version(place, LINE))
        assert_served(place, max(versions(place, LINE)))
    assert number > 12
    assert outcomes == sorted(outcomes), "once the new version is live, it stays so"
    assert outcomes.count(1) > 10


def test_an_interrupted_first_publication_shows_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 40):
        place = tmp_path / str(number)
        artefact = tmp_path / f"artefact {number}"
        place.mkdir()
        manifest = write_artefact(artefact, LINE, 1)
        with stopped_at(number, Interrupted, monkeypatch) as done:
            try:
                publish.write_models(place, manifest, artefact)
            except Interrupted:
                pass
            else:
                assert number > 12
                return
        configs = list(place.glob("*/config.pbtxt"))
        assert configs == [] or done[number - 1] == "fsync", "all of the line, or nothing of it"
    pytest.fail("it never ended")


def test_one_build_of_a_line_at_a_time(repository: Path) -> None:
    with staging_area(repository, LINE) as folder:
        (folder / "work").write_text("")
        with pytest.raises(RecipeError, match=r"another build of line 'bottle' into .* is under way"):
            add_version(repository, 2)
        with pytest.raises(RecipeError, match="under way"):
            rollback(repository, LINE, 1)
        assert (folder / "work").is_file(), "the other build's work is left alone"
        add_version(repository, 1, line="other")
    assert not folder.exists()
    add_version(repository, 2)
    assert {status.line: status.live for status in list_lines(repository)} == {"bottle": 2, "other": 1}


def test_what_a_killed_build_left_is_cleared(repository: Path) -> None:
    left = repository.parent / ".repository.building" / LINE / "artefact"
    left.mkdir(parents=True)
    (left / "model.onnx").write_text("half")
    with staging_area(repository, LINE) as folder:
        assert list(folder.iterdir()) == []


def test_a_build_that_fails_leaves_no_staging(repository: Path) -> None:
    places = []

    def build() -> None:
        with staging_area(repository, LINE) as folder:
            (folder / "half").write_text("")
            places.append(folder)
            raise Interrupted

    with pytest.raises(Interrupted):
        build()
    assert not places[0].exists()
    assert_served(repository, 1)


def test_a_mount_is_built_in_within_itself(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent is on another disk, or cannot be written."""
    asked = publish.what_forbids
    monkeypatch.setattr(
        publish, "what_forbids", lambda place: "no" if place == repository.parent else asked(place)
    )
    with staging_area(repository, LINE) as folder:
        assert folder.parent == repository / ".building"
        assert [status.line for status in list_lines(repository)] == [LINE]
        with pytest.raises(RecipeError, match="under way"), staging_area(repository, LINE):
            pass
    assert not (repository / ".building").exists()
    add_version(repository, 2)
    assert_served(repository, 2)


@pytest.mark.parametrize("fails", [None, "copytree", "rename"])
def test_a_version_comes_from_another_disk_whole_or_not_at_all(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str | None
) -> None:
    manifest = write_artefact(tmp_path / "artefact", LINE, 2)
    rename, copytree = Path.rename, shutil.copytree

    def across(path: Path, target: Path) -> Path:
        if path.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        if fails == "rename":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    def copy(source: Path, target: Path) -> object:
        done = copytree(source, target)
        if fails == "copytree":
            raise OSError(errno.ENOSPC, "No space left on device")
        return done

    monkeypatch.setattr(Path, "rename", across)
    monkeypatch.setattr(shutil, "copytree", copy)
    if fails is None:
        publish.write_models(repository, manifest, tmp_path / "artefact")
        assert_served(repository, 2)
    else:
        with pytest.raises(OSError, match=r"No space|Input/output"):
            publish.write_models(repository, manifest, tmp_path / "artefact")
        assert_served(repository, 1)
        assert not (repository / names.discrepancy(LINE) / "2").exists()
    assert not list(repository.rglob("tmp.*"))


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file", r"file is no folder; name a folder with --repository"),
        ("file/below", r"file/below cannot be made \(Not a directory\)"),
        ("/proc/flawline", r"/proc/flawline cannot be made"),
        ("/proc", r"cannot be published into: /proc cannot be written"),
        ("taken", r"taken/bottle_pixels cannot be written"),
    ],
)
def test_where_nothing_can_be_published_is_told_before_any_work(
    tmp_path: Path, place: str, said: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "bottle_pixels").touch()
    with pytest.raises(OutputError, match=said), staging_area(tmp_path / place, LINE):
        pytest.fail("it began")


def test_a_disk_without_room_is_told_before_any_work(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=59_000_000))
    with staging_area(repository, LINE, 58_000_000):
        pass
    said = r"has 59 MB left, and publishing line 'bottle' takes about 60 MB; free some"
    with pytest.raises(OutputError, match=said), staging_area(repository, LINE, 60_000_000):
        pytest.fail("it began")
    rollback(repository, LINE, 1)


@pytest.mark.parametrize("name", [*MODELS, *names.SHARED])
def test_models_of_others_are_left_alone(tmp_path: Path, name: str) -> None:
    """A model repository may hold more than lines."""
    repository = tmp_path / "repository"
    (repository / name / "1").mkdir(parents=True)
    (repository / name / CONFIG).write_text('backend: "onnxruntime"')
    (repository / name / "1" / "model.onnx").write_text("somebody's model")
    with pytest.raises(OutputError, match=f"{name} is a model that Flawline did not make"):
        add_version(repository, 1)
    if name in names.SHARED:
        with pytest.raises(OutputError, match=f"{name} is a model that Flawline did not make"):
            publish.place_shared_stages(repository)
    assert [str(path.relative_to(repository)) for path in sorted(repository.rglob("*"))] == [
        name,
        f"{name}/1",
        f"{name}/1/model.onnx",
        f"{name}/{CONFIG}",
    ]


def test_a_model_that_took_the_name_of_the_fused_one_is_left_alone(repository: Path) -> None:
    add_version(repository, 2, fused=False)
    model = repository / names.fused(LINE) / CONFIG
    model.parent.mkdir()
    model.write_text('backend: "onnxruntime"')
    for fused in (True, False):
        with pytest.raises(OutputError, match="bottle_fused is a model that Flawline did not make"):
            add_version(repository, 3, fused=fused)
    assert model.read_text() == 'backend: "onnxruntime"'


def test_stages_that_cannot_be_brought_up_to_date_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish.place_shared_stages(tmp_path)

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(publish, "write_atomically", refuse)
    publish.place_shared_stages(tmp_path)
    (tmp_path / "preprocess" / CONFIG).write_text("older")
    with pytest.raises(
        OutputError, match=r"preprocess/config.pbtxt cannot be written \(Read-only file system\)"
    ):
        publish.place_shared_stages(tmp_path)


def test_shared_stages_are_placed_and_kept_up_to_date(tmp_path: Path) -> None:
    publish.place_shared_stages(tmp_path)
    files = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert files == sorted(Path(name) / file for name in names.SHARED for file in (CONFIG, "1/model.py"))
    for file in files:
        assert (tmp_path / file).read_text() == (publish.shared_stages() / file).read_text()
    changed, same = tmp_path / "postprocess" / "1" / "model.py", tmp_path / "preprocess" / CONFIG
    changed.write_text("an older version")
    os.utime(same, (1, 1))
    publish.place_shared_stages(tmp_path)
    assert "an older version" not in changed.read_text()
    assert same.stat().st_mtime == 1, "what is right is not touched"


def parsed(path: Path) -> Message:
    return text_format.Parse(path.read_text(), Message())


def test_what_an_operator_changes_of_a_shared_stage_outlives_updates(tmp_path: Path) -> None:
    publish.place_shared_stages(tmp_path)
    bank, shipped = tmp_path / "memory_bank_negative", parsed(tmp_path / "memory_bank_negative" / CONFIG)
    (bank / publish.CHANGES).write_text(
        "instance_group [ { count: 3 kind: KIND_CPU } ]\n"
        "dynamic_batching { max_queue_delay_microseconds: 500 }\n"
        'parameters [ { key: "MAX_BANKS" value { string_value: "7" } } ]\n'
    )
    for _ in range(2):
        publish.place_shared_stages(tmp_path)
        config = parsed(bank / CONFIG)
        assert [(group.count, len(config.instance_group)) for group in config.instance_group] == [(3, 1)]
        assert config.dynamic_batching.max_queue_delay_microseconds == 500
        assert config.dynamic_batching.default_queue_policy == shipped.dynamic_batching.default_queue_policy
        values = {key: value.string_value for key, value in config.parameters.items()}
        assert values == {"BANK_FILE": "bank_negative.safetensors", "MAX_BANKS": "7"}
        assert list(config.input) == list(shipped.input)
        (bank / CONFIG).write_text("as another version of Flawline had it")
    (bank / publish.CHANGES).unlink()
    publish.place_shared_stages(tmp_path)
    assert parsed(bank / CONFIG) == shipped


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ("instance_group [", "no model configuration"),
        ('name: "another"', "name cannot be changed, but instance_group, dynamic_batching, parameters can"),
        (
            'parameters [ { key: "MAX_BANK" value { string_value: "7" } } ]',
            "no parameter MAX_BANK; there are BANK_",
        ),
    ],
)
def test_changes_that_cannot_be_used_are_named_and_nothing_is_written(
    tmp_path: Path, changes: str, told: str
) -> None:
    publish.place_shared_stages(tmp_path)
    bank = tmp_path / "memory_bank_negative"
    before = (bank / CONFIG).read_text()
    (bank / publish.CHANGES).write_text(changes)
    with pytest.raises(OutputError, match=rf"negative/changes\.pbtxt cannot be used: .*{told}.*; correct it"):
        publish.place_shared_stages(tmp_path)
    assert (bank / CONFIG).read_text() == before


def test_the_sources_are_not_copied_onto_themselves() -> None:
    publish.place_shared_stages(publish.shared_stages())


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Bottle",
        "2nd",
        "a-b",
        "a b",
        "../a",
        "a/b",
        "a" * 64,
        "preprocess",
        "a_pixels",
        "a_fused",
        "a_discrepancy",
    ],
)
def test_names_that_cannot_name_a_line(name: str) -> None:
    with pytest.raises(RecipeError, match="cannot name a line: use lower-case letters"):
        names.check_line(name)
    assert names.check_line("a2_b") == "a2_b"
