"""`make demo`: a generated line from nothing to answers of a real server, with a report to look at."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import tritonclient.grpc as grpcclient
import typer

from flawline import __version__
from flawline.data import Sample, load_dataset
from flawline.errors import FlawlineError
from flawline.files import JSON_MARK, check_folder, check_output, write_atomically
from flawline.jobs.build import build
from flawline.jobs.release import write_build_report
from flawline.memory import keep_freed_memory
from flawline.progress import say, track
from flawline.recipe import Recipe
from flawline.report.gallery import PictureRow
from flawline.report.page import check_report_file
from flawline.serving.tritonserver import TritonServer
from flawline_client import Inspection, InspectionClient, InspectionError
from flawline_client.boundary import told_in_one_sentence
from flawline_client.overlay import OVERLAY_MARK, save_overlay

LINE = "demo"
DETECTOR = "exdd"
RECIPE = Recipe(name="demo")
"""All defaults."""
OVERLAYS = 12


def demo(out: Path, data: str = "surfaces") -> dict[str, object]:
    """Build and publish a line from generated pictures, serve it, ask it about every test picture.

    Writes report.html, summary.json, overlays/ and model_repository/ into `out`; returns the summary.
    """
    dataset = load_dataset(data)
    _check_place(out, dataset.test)
    say(f"{len(dataset.train_normals)} normal pictures to learn from, {len(dataset.test)} to test on")
    built = build(DETECTOR, dataset, LINE, repository=out / "model_repository", recipe=RECIPE)
    with TritonServer(out / "model_repository", grpc_port=0, http_port=0, metrics_port=0) as server:
        metadata = grpcclient.InferenceServerClient(server.grpc_url).get_server_metadata()
        with InspectionClient(server.grpc_url) as client:
            answers = [client.inspect(LINE, s.image) for s in track(dataset.test, "asking the server")]
    _save_overlays(out / "overlays", dataset.test, answers, built.evaluation.rows)
    write_build_report(out / "report.html", built)
    result = built.evaluation.result()
    latencies = [answer.latency_ms for answer in answers]
    eager = [int(row.decision) for row in built.evaluation.rows]
    manifest = built.manifest
    summary: dict[str, object] = {
        "generator": f"Flawline {__version__}",
        "server_version": metadata.version,
        "images": len(answers),
        "recall_at_budget": result.recall_at_budget,
        "located_at_budget": result.located_at_budget,
        "false_alarm_rate": result.false_alarm_rate,
        "false_alarm_budget": manifest.calibration.false_alarm,
        "found_at_1": result.found_at_1,
        "found_at_2": result.found_at_2,
        "found_at_5": result.found_at_5,
        "image_auroc": result.image_auroc,
        "pixel_auroc": result.pixel_auroc,
        "aupro": result.aupro,
        "statements": result.statements,
        "decisions_flipped": sum(int(a.verdict) != said for a, said in zip(answers, eager, strict=True)),
        "parity": [fact.model_dump() for fact in manifest.parity],
        "latency_ms": {f"p{q}": round(float(np.percentile(latencies, q)), 1) for q in (50, 99)},
        "line_version": manifest.version,
    }
    write_atomically(out / "summary.json", json.dumps(summary, indent=2) + "\n", over=JSON_MARK)
    return summary


def _save_overlays(
    folder: Path, samples: tuple[Sample, ...], answers: list[Inspection], rows: list[PictureRow]
) -> None:
    """The strongest found defects first, then everything that was decided wrongly, up to OVERLAYS."""
    wrong = [i for i, row in enumerate(rows) if row.called != row.is_defect]
    found = sorted(
        (i for i, row in enumerate(rows) if row.called and row.is_defect), key=lambda i: -rows[i].score
    )
    folder.mkdir(parents=True, exist_ok=True)
    for i in (*found[: OVERLAYS // 2], *wrong[: OVERLAYS // 2]):
        sample = samples[i]
        save_overlay(answers[i], sample.image, folder / _overlay_name(sample))


def _overlay_name(sample: Sample) -> str:
    return f"{sample.defect_class}_{sample.image.stem}.png"


def _check_place(out: Path, samples: tuple[Sample, ...]) -> None:
    """Raise OutputError, before minutes of work, where something of others would be written over."""
    check_report_file(out / "report.html", "--out")
    check_output(out / "summary.json", "--out", JSON_MARK)
    for sample in samples:
        check_output(out / "overlays" / _overlay_name(sample), "--out", OVERLAY_MARK)


def main(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("out/demo"),
) -> None:
    """Generate a line, train it, serve it on a real Triton server, inspect its test pictures."""
    keep_freed_memory()
    check_folder(out, "--out")
    summary = demo(out)
    typer.echo(json.dumps({key: value for key, value in summary.items() if key != "parity"}, indent=2))
    say(f"Look at {out / 'report.html'} and {out / 'overlays'}")


def run() -> None:
    """Run the demo as a program; errors are one sentence, with status 2."""
    with told_in_one_sentence("demo", FlawlineError, InspectionError):
        typer.run(main)


if __name__ == "__main__":
    run()
