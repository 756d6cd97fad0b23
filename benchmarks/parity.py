"""Build lines from real data and keep how far served answers lie from trained ones: results/parity.json.

    python benchmarks/parity.py --data-root DIR

Every picture of each test split is asked by every path; `flawline build` refuses to publish a flipped decision. A
student or a pair: `--detectors sacd,sacd+exdd,ddpm_ast,ddpm_ast+exdd`, with the recipes of the accuracy table,
whose trained students are used where `accuracy/run.py` left them.
"""

import json
import resource
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from flawline.artefact.manifest import read
from flawline.report.evaluation import merge_rows
from flawline.repository.publish import live_artefact

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "parity.json"
MEMORY = "exdd"
"""The detector that trains nothing."""
STUDENT_RECIPES = {
    "magnetic_tile": {"sacd": "synthetic", "ddpm_ast": "regions"},
    "kolektorsdd": {"sacd": "cracks", "ddpm_ast": "cracks"},
}


def main(
    data_root: Annotated[Path, typer.Option(help="Folder with magnetic_tile/ and kolektorsdd/.")] = Path(
        "data"
    ),
    repository: Annotated[Path, typer.Option(help="Where to publish.")] = Path("out/parity_repository"),
    detectors: Annotated[str, typer.Option(help="Detectors, separated by commas.")] = MEMORY,
    sets: Annotated[str, typer.Option(help="Data sets, separated by commas.")] = ",".join(STUDENT_RECIPES),
) -> None:
    """Build each set with each detector, one after the other."""
    for data, detector in product(sets.split(","), detectors.split(",")):
        line = data if detector == MEMORY else f"{data}_{detector.replace('+', '_')}"
        options = ["--data", f"{data}:{data_root / data}", "--line", line, "--repository", str(repository)]
        if detector != MEMORY:
            recipe = STUDENT_RECIPES[data][detector.partition("+")[0]]
            options += ["--recipe", f"build/recipes/{recipe}.yaml"]
            options += ["--checkpoint", f"out/students/{data}-{recipe}/seed-0"]
        arguments = ["build", detector, *options]
        print("flawline", *arguments, flush=True)
        subprocess.run([Path(sys.executable).with_name("flawline"), *arguments], cwd=ROOT, check=True)
        # Linux gives the largest of all children so far: the last build's figure can only be too high.
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
        manifest = read(live_artefact(ROOT / repository, line))
        rows = [
            {
                "line": line,
                **fact.model_dump(),
                "target": manifest.target,
                "teacher_fingerprint": manifest.teacher["fingerprint"],
                "build_peak_rss_mb": round(peak_mb),
                "command": " ".join(["flawline", *arguments]),
            }
            for fact in manifest.parity
        ]
        merge_rows(RESULTS, rows, key=("line", "path"))
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    typer.run(main)
