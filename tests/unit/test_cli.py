"""The command line: help, results that machines read, and errors as one sentence with status 2."""

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import Result
from small_lines import write_artefact
from typer.main import get_command
from typer.testing import CliRunner

from flawline import cli
from flawline.artefact.manifest import CandidateFacts, Origin, SearchFacts
from flawline.cli import app, main
from flawline.repository import publish

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """`bottle` at version 2 of 2, and `nut`, damaged."""
    folder = tmp_path / "repository"
    for line, version in (("bottle", 1), ("bottle", 2), ("nut", 1)):
        artefact = tmp_path / f"{line} {version}"
        manifest = write_artefact(
            artefact,
            line,
            version,
            metrics=None
            if line == "nut"
            else {"image_auroc": 0.875, "recall_at_budget": 0.25, "false_alarm_rate": 0.0},
            origin=Origin(version=1, change="calibrated for another budget") if version == 2 else None,
        )
        folder.mkdir(exist_ok=True)
        publish.write_models(folder, manifest, artefact)
    (folder / "nut_discrepancy" / "1" / "model.bin").write_text("damaged")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "250"})


def leave(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[object, str, str]:
    """What the installed command `flawline` does: its status, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["flawline", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, *capsys.readouterr()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_each_of_its_options(command: str) -> None:
    done = run(command, "--help")
    assert done.exit_code == 0
    assert re.match(rf"Usage: .*{command} \[OPTIONS\]", done.stdout)
    for parameter in get_command(app).commands[command].params:  # type: ignore[attr-defined]
        assert parameter.help, f"{command} {parameter.name} has no help"
        if parameter.opts[0].startswith("-"):
            assert parameter.opts[0] in done.stdout


def test_no_command_is_help() -> None:
    done = run()
    assert all(command in done.output for command in COMMANDS)


def test_lines_for_machines(repository: Path) -> None:
    done = run("lines", "--json", "--repository", repository)
    assert done.exit_code == 0
    bottle, nut = (json.loads(line) for line in done.stdout.splitlines())
    problem = nut.pop("problem")
    assert "nut_discrepancy/1/model.bin: damaged" in problem
    common = {"detector": "exdd", "target": "openvino", "created": "2026-01-02T03:04:05+00:00"}
    assert bottle == {
        **common,
        "line": "bottle",
        "live": 2,
        "versions": [1, 2],
        "recall_at_budget": 0.25,
        "false_alarm_rate": 0.0,
        "image_auroc": 0.875,
        "origin": "calibrated for another budget",
        "problem": None,
    }
    assert (nut["line"], nut["live"], nut["image_auroc"], nut["origin"]) == ("nut", 1, None, None)


def test_lines_for_people(repository: Path) -> None:
    done = run("lines", "--repository", repository)
    assert done.exit_code == 0
    (bottle,) = (line for line in done.stdout.splitlines() if "bottle" in line)
    assert [cell.strip() for cell in bottle.split("│")[1:-1]] == [
        "bottle", "2", "1 2", "exdd", "openvino", "25.0%", "0.0%", "0.875", "2026-01-02T03:04:05+00:00", "ok",
    ]  # fmt: skip
    assert "damaged" in done.stdout


def test_the_table_of_a_search_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    settings = {"detector": "exdd", "even_exposure": True}
    tried = CandidateFacts(
        **settings,
        size=256,
        trials=2,
        found={"planted": 0.5},
        image_auroc={"planted": 0.75},
        merit=0.625,
        seconds=8.4,
        verdict="chosen: the best",
    )
    untried = CandidateFacts(**settings, size=384, trials=0, seconds=90.0, verdict="not tried: too long")
    facts = SearchFacts(
        rule="The best.", judged_by="two", labelled_defects=0, chosen=0, candidates=(tried, untried)
    )
    cli._show_search(facts)
    shown, told = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "exdd" in line]
    assert rows == [
        ["exdd, size 256, exposure evened", "2", "50%, 0.750", "0.625", "8", "chosen: the best"],
        ["exdd, size 384, exposure evened", "0", "-", "-", "90", "not tried: too long"],
    ]
    assert told.strip() == "Judged by two. The best."
    assert facts.statement.startswith("exdd, size 256, exposure evened. Judged by two. The best. exdd")


def test_going_back(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, told = leave(monkeypatch, capsys, "rollback", "--line", "bottle", "--repository", repository)
    assert status == 0
    assert "Line 'bottle' is at version 1" in told
    assert "restart the server" in told
    assert publish.live_version(repository, "bottle") == 1
    leave(monkeypatch, capsys, "rollback", "--line", "bottle", "--to", 2, "--repository", repository)
    assert publish.live_version(repository, "bottle") == 2


BUILD = ("build", "exdd", "--line", "bottle")
FEW = "surfaces:size=64,normals=12,test_normals=1,test_defects=1,train_defects=0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rollback", "--line", "screw", "--repository", "."), "has no line 'screw'"),
        (("serve", "--repository", "nowhere"), "no model repository at"),
        ((*BUILD, "--data", "magic:."), "'magic:.' names no data set"),
        ((*BUILD, "--data", "folder:nowhere"), "is not a folder"),
        ((*BUILD, "--data", "surfaces:marble"), "there is no family 'marble'"),
        (
            (*BUILD, "--data", "folder:.", "--size", 100),
            r"--size 100: must be one of 128.*; give another value",
        ),
        (
            (*BUILD, "--data", "folder:.", "--false-alarm", 0),
            r"flawline: --false-alarm 0\.0: .*greater than 0",
        ),
        (
            (*BUILD, "--data", "folder:.", "--positive", "all"),
            "--positive all: .*'labelled'",
        ),
        ((*BUILD, "--data", "folder:.", "--recipe", "gone.yaml"), "gone.yaml: the recipe cannot be read"),
        (
            (*BUILD, "--data", "folder:.", "--recipe", "picture.yaml"),
            "picture.yaml: the recipe cannot be read",
        ),
        ((*BUILD, "--data", "folder:.", "--recipe", "broken.yaml"), "broken.yaml: the recipe cannot be read"),
        ((*BUILD, "--data", "folder:.", "--recipe", "list.yaml"), "list.yaml: a recipe is a YAML mapping"),
        ((*BUILD, "--data", "folder:.", "--recipe", "typo.yaml"), "typo.yaml: exdd.min_bunk: "),
        (
            (*BUILD, "--data", "folder:.", "--recipe", "other.yaml"),
            "other.yaml: 'boxer' is neither a setting",
        ),
        (("evaluate", "exdd", "--data", "folder:."), "no pictures"),
        (
            ("evaluate", "exdd", "--data", "surfaces", "--holdout", "."),
            r"\. holds no good picture; --holdout tests the promise on good pictures taken another day",
        ),
        ((*BUILD, "--data", "surfaces", "--holdout", "gone"), "gone is not a folder; --holdout takes"),
        (
            ("evaluate", "exdd", "--data", "surfaces", "--scores", "typo.yaml"),
            "typo.yaml is there and was not made by Flawline; choose another --scores",
        ),
        (
            (*BUILD, "--data", "surfaces", "--scores", "picture.yaml"),
            "picture.yaml is there and was not made by Flawline",
        ),
        (
            ("evaluate", "exdd", "--data", "surfaces", "--scores", "a", "--report", "a"),
            "a: two results would be written to this one file",
        ),
        (
            (*BUILD, "--data", "surfaces", "--false-alarm", 0.05, "--look-again", 0.02),
            "--false-alarm 0.05, --look-again 0.02: the budgets are out of order: look_again 0.02 is below",
        ),
        (
            ("calibrate", "--line", "bottle", "--look-again", 0),
            "--look-again 0.0: give a share above 0 and below 1",
        ),
        (
            ("build", "auto+exdd", "--line", "bottle", "--data", FEW),
            "'auto\\+exdd': auto chooses all detectors",
        ),
        (
            ("build", "autos", "--line", "bottle", "--data", FEW),
            "unknown detector 'autos'; there are: exdd, ",
        ),
        (
            ("evaluate", "auto", "--data", FEW),
            "12 normal training pictures of 12 items, too few to choose by",
        ),
        (
            ("compile", "--line", "bottle", "--target", "openvino", "--repository", "."),
            "no live line 'bottle'",
        ),
        (
            ("calibrate", "--line", "bottle", "--repository", "."),
            "there is nothing to calibrate; give --data",
        ),
        (
            ("calibrate", "--line", "bottle", "--false-alarm", 2),
            "--false-alarm 2.0: give a share above 0 and below 1",
        ),
        (
            ("calibrate", "--line", "bottle", "--false-alarm", 0.1, "--repository", "."),
            "no live line 'bottle'; 'flawline lines' shows what is published",
        ),
        (("synthesize", "--data", "folder:nowhere", "--out", "out"), "is not a folder"),
    ],
)
def test_an_error_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("picture.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    Path("broken.yaml").write_text("size: [")
    Path("list.yaml").write_text("- size")
    Path("typo.yaml").write_text("exdd: {min_bunk: 3}")
    Path("other.yaml").write_text("boxer: {cells: 3}")
    status, out, told = leave(monkeypatch, capsys, *arguments)
    assert status == 2
    assert out == ""
    *_, last = told.splitlines()  # before it there may be progress
    assert last.startswith("flawline: ")
    assert re.search(message, last)
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("evaluate", "exdd", "--data", "surfaces", "--seeds", "1,b"),
            "give whole numbers separated by commas",
        ),
        (("lines", "--jsn"), "No such option"),
        (("build", "exdd", "--data", "surfaces"), "Missing option '--line'"),
        (
            ("synthesize", "--data", "surfaces", "--out", "x", "--count", 0),
            "should be greater than or equal to 1",
        ),
        (("bild",), "No such command 'bild'"),
    ],
)
def test_wrong_usage_is_told_with_status_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[object, ...],
    message: str,
) -> None:
    status, _, told = leave(monkeypatch, capsys, *arguments)
    assert status == 2
    assert message in told
    assert "Traceback" not in told


def test_ctrl_c_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(repository: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "list_lines", interrupt)
    status, out, told = leave(monkeypatch, capsys, "lines")
    assert status == 130
    assert "Traceback" not in out + told


def test_commands_that_do_not_train_do_without_torch() -> None:
    source = Path(cli.__file__).read_text()
    assert "import torch" not in source


def test_a_new_version_says_how_a_running_server_gets_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli._show_released(write_artefact(tmp_path / "artefact", "bottle", 2), tmp_path)
    said = capsys.readouterr().err
    assert "Published line 'bottle' version 2" in said
    assert (
        "A server that already runs does not have it yet: it loads what is live when it is started again."
        in said
    )
