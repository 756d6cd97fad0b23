"""The `flawline` command: arguments in, results and errors out; the work is done elsewhere.

Modules that need torch are imported inside the commands that train, so that a serving install runs the others.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flawline.durations import read_duration
from flawline.errors import FlawlineError, OutputError, ServerError
from flawline.files import check_distinct, check_folder
from flawline.memory import keep_freed_memory
from flawline.progress import say
from flawline.targets import TARGETS
from flawline_client.boundary import told_in_one_sentence
from flawline_client.cli import host_and_port, inspect_command, seconds
from flawline_client.inspection import InspectionError

app = typer.Typer(
    help="Visual inspection on NVIDIA Triton: train, calibrate, prove and serve a surface-defect detector.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Detector = Annotated[
    str,
    typer.Argument(
        help="exdd, sacd, ddpm_ast, segmenter or d3n (boxes), or several joined by +, such as ddpm_ast+exdd; or "
        "auto, which tries several at several settings on held-out training pictures, chooses one, and says why."
    ),
]
Data = Annotated[
    str, typer.Option(help="LAYOUT:PATH, for example magnetic_tile:data/magnetic_tile, or surfaces.")
]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="YAML file with settings of the build.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda; for training.")]
Repository = Annotated[Path, typer.Option(help="Triton model repository.")]
Line = Annotated[str, typer.Option(help="Name of the line.")]
FalseAlarm = Annotated[
    float | None,
    typer.Option(
        help="Share of good pictures that may be called defective.  [default: 0.01]", show_default=False
    ),
]
LookAgain = Annotated[
    float | None,
    typer.Option(
        help="Share of good pictures that may be called defective or be looked at again; equal to --false-alarm "
        "looks at none again.  [default: 0.05, or --false-alarm if that is larger]",
        show_default=False,
    ),
]
Positive = Annotated[
    str | None,
    typer.Option(
        help="Positive bank: labelled, synthetic, none, or auto (labelled defects if there are any).  "
        "[default: auto]",
        show_default=False,
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        help="Side of the model square, or of a window, in pixels.  [default: 256; larger for cut-outs of many "
        "shapes]",
        show_default=False,
    ),
]
Windows = Annotated[
    float | None,
    typer.Option(
        help="Look at large pictures in overlapping windows of --size pixels at this scale: 1 is native "
        "resolution, 0.5 half of it.  [default: each picture whole in one square; cut-outs of many shapes "
        "at one scale]",
        show_default=False,
    ),
]
Ignore = Annotated[
    Path | None,
    typer.Option(
        help="PNG of the pictures' shape, white where pictures are neither learnt nor judged.  "
        "[default: the recipe's]",
        show_default=False,
    ),
]
LeaveOut = Annotated[
    Path | None,
    typer.Option(
        help="Text file with one training picture a line, by path or folder/name, to build without."
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="efficientnet_lite0 (ImageNet features), builtin, hf:<name>, a folder, or a source of another "
        "package.  [default: the first of these that is installed]",
        show_default=False,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Time for training a student, for example 90s, 20m or 2h; with auto, for search and fit together.  "
        "[default: the recipe's steps; with auto, every candidate]",
        show_default=False,
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Folder that keeps the state of training, and the trials of auto; the same command goes on from it."
    ),
]
HoldOut = Annotated[
    str | None,
    typer.Option(
        help="Good pictures taken another day, a folder or LAYOUT:PATH, on which the promise is tested."
    ),
]
ScoresFile = Annotated[
    Path | None,
    typer.Option("--scores", help="Write score, p-value and verdict of every picture to this CSV file."),
]
DEFAULT_REPOSITORY = Path("model_repository")
MOST_SEED = 2**32 - 1
"""Largest seed that every library takes."""


@app.command()
def build(
    detector: Detector,
    data: Data,
    line: Line,
    repository: Repository = DEFAULT_REPOSITORY,
    target: Annotated[
        str, typer.Option(help=f"How the graph is compiled: {' or '.join(TARGETS.names())}.")
    ] = "openvino",
    recipe: RecipeFile = None,
    false_alarm: FalseAlarm = None,
    positive: Positive = None,
    size: Size = None,
    windows: Windows = None,
    teacher: Teacher = None,
    ignore: Ignore = None,
    leave_out: LeaveOut = None,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.", min=0, max=MOST_SEED)] = 0,
    device: Device = "auto",
    budget: Budget = None,
    checkpoint: Checkpoint = None,
    look_again: LookAgain = None,
    fused: Annotated[
        bool, typer.Option(help="Also publish <line>_fused, the whole line as one model.")
    ] = True,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report of the test split here.")] = None,
    holdout: HoldOut = None,
    scores: ScoresFile = None,
) -> None:
    """Train, calibrate, compile, check parity, and publish a new version of a line."""
    from flawline.data import load_dataset, load_holdout
    from flawline.data.leave_out import leave_out as without
    from flawline.jobs.build import build as build_line
    from flawline.jobs.evaluate import groups_of, statements
    from flawline.jobs.release import write_build_report
    from flawline.recipe import read_recipe
    from flawline.report.scores import write_scores

    settings = read_recipe(
        recipe,
        false_alarm=false_alarm,
        look_again=look_again,
        positive=positive,
        size=size,
        windows=windows,
        teacher=teacher,
        ignore=ignore,
    )
    _check_results(report=report, scores=scores, checkpoint=checkpoint)
    another_day = () if holdout is None else load_holdout(holdout)
    dataset = without(load_dataset(data, seed=seed), leave_out)
    built = build_line(
        detector,
        dataset,
        line,
        repository=repository,
        recipe=settings,
        target=target,
        seed=seed,
        device=device,
        budget=read_duration(budget),
        checkpoint=checkpoint,
        fused=fused,
        holdout=another_day,
    )
    _show_search(built.manifest.search)
    _show_released(built.manifest, repository)
    for sentence in statements(built.evaluation if dataset.test else None, built.holdout):
        say(sentence)
    if scores is not None:
        write_scores(
            scores, groups_of(built.evaluation, built.holdout, name="test" if dataset.test else "train")
        )
        say(f"Scores: {scores}")
    if report is not None:
        write_build_report(report, built)
        say(f"Report: {report}")


def _check_results(
    *, report: Path | None, scores: Path | None, checkpoint: Path | None, rows: Path | None = None
) -> None:
    """See, before anything is trained or published, that what a command is to write can be written."""
    from flawline.data.splits import SPLIT_FILE
    from flawline.report.evaluation import check_rows_file
    from flawline.report.page import check_report_file
    from flawline.report.scores import check_scores_file

    check_distinct({"--report": report, "--json": rows, "--scores": scores})
    for option, path in (("--report", report), ("--json", rows), ("--scores", scores)):
        if path is not None and path.name == SPLIT_FILE:
            msg = f"{path} would be read as the split of the pictures beside it; give {option} another name"
            raise OutputError(msg)
    if report is not None:
        check_report_file(report)
    if rows is not None:
        check_rows_file(rows)
    if scores is not None:
        check_scores_file(scores)
    if checkpoint is not None:
        check_folder(checkpoint, "--checkpoint")


def _show_search(search: Any) -> None:  # noqa: ANN401 - SearchFacts, imported only where needed
    """Print what was tried and why one was chosen; nothing where the user chose."""
    if search is None:
        return
    kinds = list(dict.fromkeys(kind for each in search.candidates for kind in each.found))
    table = Table(
        "candidate", "trials", *(f"{kind}: found, AUROC" for kind in kinds), "merit", "s", "why (not)"
    )
    for each in search.candidates:
        figures = [
            f"{each.found[kind]:.0%}, {each.image_auroc[kind]:.3f}" if kind in each.found else "-"
            for kind in kinds
        ]
        merit = "-" if each.merit is None else f"{each.merit:.3f}"
        table.add_row(each.title, str(each.trials), *figures, merit, f"{each.seconds:.0f}", each.verdict)
    Console().print(table)
    say(f"Judged by {search.judged_by}. {search.rule}")


def _show_released(manifest: Any, repository: Path) -> None:  # noqa: ANN401 - Manifest, see above
    """Print how the served line compares with the trained one, and what was published."""
    table = Table(
        "path",
        "pictures",
        "largest score difference",
        "rank correlation",
        "largest map difference",
        "decisions flipped",
    )
    for fact in manifest.parity:
        table.add_row(
            fact.path,
            str(fact.pictures),
            f"{fact.max_score_difference:.1e}",
            f"{fact.rank_correlation:.6f}",
            "-" if fact.max_map_difference is None else f"{fact.max_map_difference:.1e}",
            str(fact.decisions_flipped),
        )
    Console().print(table)
    say(f"Promise: {manifest.calibration.promise}.")
    _show_odd(manifest.odd_normals, manifest.calibration.limit)
    say(
        f"Published line '{manifest.line}' version {manifest.version} in {repository}; "
        "serve it with 'flawline serve'."
    )
    say("A server that already runs does not have it yet: it loads what is live when it is started again.")


def _show_odd(normals: Any, limit: str | None) -> None:  # noqa: ANN401 - OddNormals, see above
    """Name the good pictures that stand out, and say whether they set the limit."""
    from flawline.detectors.odd import odd_statement

    if limit is not None:
        say(f"Limit: {limit}.")
    if odd := odd_statement(normals):
        say(f"Odd good pictures: {odd} Look at the report, or use --leave-out.")


@app.command("compile")
def compile_graph(
    line: Line,
    target: Annotated[str, typer.Option(help=f"How the graph is compiled: {' or '.join(TARGETS.names())}.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="LAYOUT:PATH of pictures to prove the new version on.  [default: those the line keeps]",
            show_default=False,
        ),
    ] = None,
    repository: Repository = DEFAULT_REPOSITORY,
    kept: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Folder of a line that was trained and could not be published, as the build told.  "
            "[default: the live version]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compile a published line for another target, on this machine, as a new version; nothing is trained."""
    from flawline.data import load_dataset
    from flawline.jobs.derive import bits_of, compile_line

    pictures = None if data is None else load_dataset(data, bits=bits_of(repository, line, kept))
    _show_released(compile_line(repository, line, target, dataset=pictures, kept=kept).manifest, repository)
    if kept is not None:
        say(f"The copy in {kept} is no longer needed.")


@app.command()
def calibrate(
    line: Line,
    data: Annotated[
        str | None,
        typer.Option(
            help="LAYOUT:PATH of good pictures that the line has not seen.  [default: those that calibrated it]",
            show_default=False,
        ),
    ] = None,
    false_alarm: Annotated[
        float | None,
        typer.Option(
            help="Share of good pictures that may be called defective.  [default: as before]",
            show_default=False,
        ),
    ] = None,
    look_again: Annotated[
        float | None,
        typer.Option(
            help="Share of good pictures that may be called defective or be looked at again; equal to the other "
            "looks at none again.  [default: as before]",
            show_default=False,
        ),
    ] = None,
    repository: Repository = DEFAULT_REPOSITORY,
) -> None:
    """Calibrate a published line on new good pictures or for other budgets, as a new version."""
    from flawline.data import load_dataset
    from flawline.jobs.derive import bits_of, calibrate_line

    pictures = None if data is None else load_dataset(data, bits=bits_of(repository, line))
    built = calibrate_line(repository, line, dataset=pictures, false_alarm=false_alarm, look_again=look_again)
    _show_released(built.manifest, repository)


@app.command()
def evaluate(
    detector: Detector,
    data: Data,
    recipe: RecipeFile = None,
    false_alarm: FalseAlarm = None,
    positive: Positive = None,
    size: Size = None,
    windows: Windows = None,
    teacher: Teacher = None,
    ignore: Ignore = None,
    leave_out: LeaveOut = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas; one fit each.")] = "0",
    device: Device = "auto",
    budget: Budget = None,
    checkpoint: Checkpoint = None,
    look_again: LookAgain = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Merge rows in the form of accuracy.json into this file.")
    ] = None,
    report_file: Annotated[Path | None, typer.Option("--report", help="Write an HTML report here.")] = None,
    holdout: HoldOut = None,
    scores: ScoresFile = None,
) -> None:
    """Fit and score on a split: defects found and false alarms first, then AUROC, AP, AUPRO, spread over seeds.

    recall_at_budget and false_alarm_rate are what the calibrated line really does. found_at_1, found_at_2 and
    found_at_5 are read off the ROC curve of the test split at 1, 2 and 5 % of false alarms.
    """
    from flawline.data import load_holdout
    from flawline.jobs.evaluate import measure, report, statements, summary
    from flawline.recipe import read_recipe

    settings = read_recipe(
        recipe,
        false_alarm=false_alarm,
        look_again=look_again,
        positive=positive,
        size=size,
        windows=windows,
        teacher=teacher,
        ignore=ignore,
    )
    try:
        numbers = [int(part) for part in seeds.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or max(numbers) > MOST_SEED:
        msg = (
            f"--seeds '{seeds}': give whole numbers separated by commas, none below 0 or above {MOST_SEED}, for "
            "example 0,1,2"
        )
        raise typer.BadParameter(msg)
    _check_results(report=report_file, scores=scores, checkpoint=checkpoint, rows=json_file)
    runs = measure(
        detector,
        data,
        settings,
        seeds=numbers,
        device=device,
        budget=read_duration(budget),
        checkpoint=checkpoint,
        command=["flawline", *sys.argv[1:]],
        json_file=json_file,
        holdout=() if holdout is None else load_holdout(holdout),
        scores_file=scores,
        listed=leave_out,
    )
    for run in runs:
        _show_search(run.fitted.search)
    table = Table("figure", f"mean of {len(runs)}" if len(runs) > 1 else "value")
    for name, text in summary(runs).items():
        table.add_row(name, text)
    Console().print(table)
    for run in runs:
        for sentence in statements(run.evaluation, run.holdout):
            say(f"Seed {run.evaluation.seed}: {sentence}")
        _show_odd(run.fitted.odd_normals, run.fitted.calibration_facts().limit)
    if scores is not None:
        say(f"Scores: {scores}")
    if report_file is not None:
        facts = {"Adaptation": settings.adapt.statement}
        report(report_file, runs, title=f"{detector} on {runs[0].row['data']}", facts=facts)
        say(f"Report: {report_file}")


@app.command()
def serve(
    repository: Repository = DEFAULT_REPOSITORY,
    grpc_port: Annotated[int, typer.Option(help="Port for gRPC clients.", min=0, max=65535)] = 8001,
    http_port: Annotated[
        int, typer.Option(help="Port for HTTP clients and health checks.", min=0, max=65535)
    ] = 8000,
    metrics_port: Annotated[int, typer.Option(help="Port for Prometheus.", min=0, max=65535)] = 8002,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="Certificate in PEM: gRPC then speaks TLS alone, and HTTP tells health alone."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key of --tls-cert in PEM.")] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(help="Authorities in PEM: only clients with a certificate of theirs are answered."),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- OPTION", help="Options of tritonserver, which win.", show_default=False),
    ] = None,
) -> None:
    """Run the real Triton server in the foreground until Ctrl-C.

    Triton's APIs for traces and logging, and for shared memory unless --host is this machine, want the key that the
    environment variable FLAWLINE_ADMIN_KEY holds.
    """
    from flawline.repository.publish import list_lines, place_shared_stages
    from flawline.serving.access import Encryption
    from flawline.serving.tritonserver import serve_forever

    if (tls_cert is None) != (tls_key is None) or (tls_client_ca is not None and tls_cert is None):
        msg = "give --tls-cert and --tls-key together; --tls-client-ca goes with both"
        raise typer.BadParameter(msg)
    encryption = Encryption(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None
    if repository.is_dir():
        place_shared_stages(repository)
        for line in list_lines(repository):
            if line.problem:
                say(f"Line '{line.line}' will not be served: {line.problem}")
    status = serve_forever(
        repository,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        host=host,
        extra_args=options or (),
        encryption=encryption,
    )
    raise typer.Exit(status)


@app.command()
def probe(
    repository: Repository = DEFAULT_REPOSITORY,
    url: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The server's HTTP port.", callback=host_and_port)
    ] = "127.0.0.1:8000",
    one: Annotated[
        bool, typer.Option("--one", help="Ask one line, drawn at random, instead of all.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Seconds that one line may take.", callback=seconds)
    ] = 10.0,
) -> None:
    """Ask the lines of a running server about a reference picture each, for health checks: status 0 if all answer.

    A line that answers others meanwhile, or refuses because too many wait, works, too. One that is damaged, so that
    the server does not serve it, is not asked, unless no other is left. A server of --tls-cert wants the key in
    FLAWLINE_ADMIN_KEY.
    """
    from flawline.serving.access import KEY_VARIABLE
    from flawline.serving.probe import probe as ask

    probed = ask(url, repository, one=one, timeout=timeout, key=os.environ.get(KEY_VARIABLE))
    for each in probed:
        said = f"answered in {each.seconds:.2f} s" if each.fault is None else each.fault
        say(f"{each.line}: {said}{' (busy)' if each.busy else ''}")
    if failed := [each.line for each in probed if each.fault is not None and not each.busy]:
        msg = f"{', '.join(failed)} did not answer; the server must be started anew"
        raise ServerError(msg)


app.command("inspect")(inspect_command)


@app.command()
def synthesize(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder to write to, in layout 'folder'.")],
    method: Annotated[
        str | None,
        typer.Option(
            help="mixed, cutpaste, perlin, strokes, gaussian, simplex, planted, ddpm (trains a small diffusion "
            "model on the line first) or latent_diffusion (needs a pretrained model); of several, with + between "
            "them, each as often, on whole pictures.  [default: the recipe's, or mixed]",
            show_default=False,
        ),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Show the very defects that this detector learns from with the recipe, in the scale of its "
            "training.  [default: the recipe's detector]",
            show_default=False,
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="How many pictures.", min=1, max=100_000)] = 32,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.", min=0, max=MOST_SEED)] = 0,
    recipe: Annotated[
        Path | None,
        typer.Option(help="YAML file with a synthesis and its settings."),
    ] = None,
    ignore: Ignore = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Time for training ddpm, for example 90s, 10m or 2h.  [default: the recipe's steps]",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; for ddpm and latent_diffusion.")] = "auto",
) -> None:
    """Make defect pictures with masks from a line's normal pictures, and a contact sheet.

    What a method trains is kept in OUT: the same command goes on where it was interrupted.
    """
    from flawline.data import load_dataset
    from flawline.data.ignore import read_ignored
    from flawline.jobs.fit import pick_device
    from flawline.jobs.preview import preview
    from flawline.recipe import read_recipe
    from flawline.synthesis.synthesize import synthesize_line

    if method is not None and detector is not None:
        msg = (
            "give --method for whole pictures by that method, or --detector for what it learns from, not both"
        )
        raise typer.BadParameter(msg)
    check_folder(out, "--out")
    settings = read_recipe(recipe, synthesis=method, ignore=ignore)
    shown = detector or (settings.detector if method is None else None)
    dataset, time = load_dataset(data, seed=seed), read_duration(budget)
    if out.resolve().is_relative_to(dataset.root):
        msg = f"--out {out} lies in the data set, which would take what is written for its own; name another folder"
        raise OutputError(msg)
    if shown is not None:
        preview(shown, dataset, settings, count, out, seed=seed, device=device, budget=time)
        say(f"Wrote {count} pictures that {shown} learns from, and {out / 'contact_sheet.png'}")
        return
    synthesize_line(
        dataset,
        settings.synthesis,
        count,
        out,
        seed,
        device=str(pick_device(device)),
        budget=time,
        ignored=read_ignored(settings.ignore, dataset, settings.size),
    )
    say(f"Wrote {count} pictures and {out / 'contact_sheet.png'}")


@app.command()
def lines(
    repository: Repository = DEFAULT_REPOSITORY,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False,
) -> None:
    """Show what is published, and whether its files are whole."""
    from flawline.repository.publish import list_lines

    statuses = list_lines(repository)
    if as_json:
        for status in statuses:
            sys.stdout.write(json.dumps(_line_facts(status)) + "\n")
        return
    table = Table()
    for heading in (
        "line",
        "live",
        "versions",
        "detector",
        "target",
        "found",
        "false alarms",
        "image AUROC",
        "built",
        "state",
    ):
        table.add_column(heading, overflow="fold")  # nothing is cut off where the terminal is narrow
    for status in statuses:
        facts = _line_facts(status)
        found, alarms, auroc = (
            facts[name] for name in ("recall_at_budget", "false_alarm_rate", "image_auroc")
        )
        table.add_row(
            status.line,
            str(status.live or "-"),
            " ".join(map(str, status.versions)),
            facts["detector"] or "-",
            facts["target"] or "-",
            "-" if found is None else f"{found:.1%}",
            "-" if alarms is None else f"{alarms:.1%}",
            "-" if auroc is None else f"{auroc:.3f}",
            facts["created"] or "-",
            status.problem or "ok",
        )
    Console().print(table)


def _line_facts(status: Any) -> dict[str, Any]:  # noqa: ANN401 - LineStatus, imported only where needed
    manifest = status.manifest
    figures = {} if manifest is None else manifest.metrics or {}
    return {
        "line": status.line,
        "live": status.live,
        "versions": status.versions,
        "detector": manifest and manifest.detector,
        "target": manifest and manifest.target,
        **{name: figures.get(name) for name in ("recall_at_budget", "false_alarm_rate", "image_auroc")},
        "origin": manifest and manifest.origin and manifest.origin.change,
        "created": manifest and manifest.created,
        "problem": status.problem,
    }


@app.command()
def rollback(
    line: Line,
    to: Annotated[
        int | None,
        typer.Option(help="Version to go back to.  [default: the one before]", show_default=False, min=1),
    ] = None,
    repository: Repository = DEFAULT_REPOSITORY,
) -> None:
    """Make an older version of a line live; nothing is deleted."""
    from flawline.repository.publish import rollback as go_back

    manifest = go_back(repository, line, to)
    say(
        f"Line '{line}' is at version {manifest.version}, built {manifest.created}; restart the server to serve it."
    )


def main() -> None:
    """Run the command line; errors are one sentence, with status 2. Ctrl-C ends it with 130."""
    keep_freed_memory()
    with told_in_one_sentence("flawline", FlawlineError, InspectionError):
        app()
