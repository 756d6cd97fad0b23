"""Build lines from real data and keep how far served answers lie from trained ones: results/parity.json.

    python benchmarks/parity.py --data-root DIR

Every picture of each test split is asked by every path; `flawline build` refuses to publish a flipped decision.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from flawline.evaluate import merge_rows
from flawline.repository.manifest import read
from flawline.repository.names import discrepancy
from flawline.repository.publish import live_version

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "parity.json"


def main(
    data_root: Annotated[Path, typer.Option(help="Folder with magnetic_tile/ and kolektorsdd/.")] = Path(
        "data"
    ),
    repository: Annotated[Path, typer.Option(help="Where to publish.")] = Path("out/parity_repository"),
) -> None:
    """Build both sets with the default recipe, one after the other."""
    for line in ("magnetic_tile", "kolektorsdd"):
        options = ["--data", f"{line}:{data_root / line}", "--line", line, "--repository", str(repository)]
        arguments = ["build", "exdd", *options]
        print("flawline", *arguments, flush=True)
        subprocess.run([Path(sys.executable).with_name("flawline"), *arguments], cwd=ROOT, check=True)
        # Linux gives the largest of all children so far: the last build's figure can only be too high.
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
        folder = ROOT / repository / discrepancy(line) / str(live_version(ROOT / repository, line))
        manifest = read(folder)
        rows = [
            {
                "line": line,
                **fact.model_dump(),
                "target": manifest.target,
                "teacher_fingerprint": manifest.teacher_fingerprint,
                "build_peak_rss_mb": round(peak_mb),
                "command": " ".join(["flawline", *arguments]),
            }
            for fact in manifest.parity
        ]
        merge_rows(RESULTS, rows, key=("line", "path"))
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    typer.run(main)
