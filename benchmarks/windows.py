"""What windows find, cost and need on pictures of 4,000 x 3,000: results/windows.json.

    python benchmarks/windows.py

Draws good pictures of a cast surface and some with one defect of about 20 pixels, builds lines of windows and of
one square, and asks a real server about every test picture by the ensemble, by raw pixels and fused. A defect
counts as found where the picture is called defective, and as boxed where a box covers its middle and is not much
longer. Every line is built in a process of its own, so that its largest memory is known; the server's is that of
all its processes together, shared pages divided among those that share them.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import psutil
import typer
from numpy.typing import NDArray
from PIL import Image

from flawline.artefact.manifest import read
from flawline.data.flaws import plant_defect
from flawline.data.textures import render_surface
from flawline.report.evaluation import merge_rows
from flawline.repository.names import fused
from flawline.repository.publish import live_artefact
from flawline.serving.tritonserver import TritonServer
from flawline_client import InspectionClient

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "windows.json"
WIDTH, HEIGHT = 4000, 3000
NORMALS, TEST_GOOD, TEST_BAD = 12, 2, 4
KINDS = ("pit", "dent")
CROP, LONGEST = 256, 24
"""Pixels of the crop into which a defect is planted, and of its longer side at most; at least 12."""
FALSE_ALARM = 0.1
LINES = {
    "windows of 1024": ("exdd", "windows: 1\nsize: 1024\n"),
    "windows of 512 at half scale": ("exdd", "windows: 0.5\nsize: 512\n"),
    "one square of 1024": ("exdd", "size: 1024\n"),
}
"""Detector and recipe by what the table calls them."""
REST = "parity_pictures: 2\nexdd: {positive: none, max_bank: 1000}\n"
"""What all recipes have: a normal bank that is soon searched."""


def draw(folder: Path) -> None:
    """Draw the pictures in layout `folder`, if they are not there yet."""
    if (folder / "test" / "masks").is_dir():
        return
    for number in range(NORMALS):
        save(folder / "train" / "good" / f"{number:02d}.png", surface(0, number))
    for number in range(TEST_GOOD):
        save(folder / "test" / "good" / f"{number:02d}.png", surface(1, number))
    for number in range(TEST_BAD):
        pixels, mask = flawed(surface(2, number), KINDS[number % len(KINDS)], number)
        save(folder / "test" / "defect" / f"{number:02d}.png", pixels)
        save(folder / "test" / "masks" / "defect" / f"{number:02d}.png", mask)


def surface(stream: int, number: int) -> NDArray[np.float32]:
    """One picture FP32 [HEIGHT, WIDTH, 3], 0 to 1, of the same casting."""
    return render_surface("cast", (HEIGHT, WIDTH), np.random.default_rng((0, stream, number)), line_seed=0)


def flawed(
    pixels: NDArray[np.float32], kind: str, number: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Plant one defect of 12 to LONGEST pixels, and return its mask FP32 [HEIGHT, WIDTH]."""
    rng = np.random.default_rng((1, number))
    top, left = int(rng.integers(HEIGHT - CROP)), int(rng.integers(WIDTH - CROP))
    place = np.s_[top : top + CROP, left : left + CROP]
    while True:
        changed, mask = plant_defect(pixels[place], kind, rng, 1.5, 0.8)
        _, _, width, height = cv2.boundingRect(mask.astype(np.uint8))
        if 12 <= max(width, height) <= LONGEST:
            break
    whole = np.zeros((HEIGHT, WIDTH), np.float32)
    whole[place] = mask
    pixels = pixels.copy()
    pixels[place] = changed
    return pixels, whole


def save(path: Path, values: NDArray[np.float32]) -> None:
    """Write values from 0 to 1 as an 8-bit PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(values * 255).astype(np.uint8)).save(path, compress_level=1)


def build(name: str, data: Path, repository: Path) -> dict[str, object]:
    """Build a line in a process of its own, and say what that cost."""
    detector, recipe = LINES[name]
    file = repository.parent / f"{line_of(name)}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(recipe + REST)
    arguments = [
        "build",
        detector,
        "--data",
        f"folder:{data}",
        "--line",
        line_of(name),
        "--recipe",
        str(file),
    ]
    arguments += ["--repository", str(repository), "--false-alarm", str(FALSE_ALARM)]
    started = time.monotonic()
    code = (
        "import resource, sys; from flawline.cli import app\n"
        "try: app(sys.argv[1:], standalone_mode=False)\n"
        "finally: print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    peak = int(outcome.stdout.rpartition("PEAK ")[2])
    return {
        "build_seconds": round(time.monotonic() - started, 1),
        "build_peak_mb": round(peak * 1024 / 1e6),
    }


def line_of(name: str) -> str:
    """Name of the line of one row."""
    return name.replace(" ", "_")


def ask(client: InspectionClient, server: TritonServer, line: str, data: Path) -> Iterator[dict[str, object]]:
    """One row a path: what it found, how long a picture took, and the server's memory after it."""
    files = sorted((data / "test").glob("[gd]*/*.png"))
    bad = sum(file.parent.name == "defect" for file in files)
    for path, model, raw in (
        ("ensemble", line, False),
        ("pixels", line, True),
        ("fused", fused(line), False),
    ):
        client.inspect(model, files[0])  # warms up
        found, boxed, alarms, seconds = 0, 0, 0, []
        for file in files:
            started = time.monotonic()
            answer = client.inspect(model, np.asarray(Image.open(file)) if raw else file)
            seconds.append(time.monotonic() - started)
            if file.parent.name == "good":
                alarms += answer.is_defect
                continue
            found += answer.is_defect
            mask = np.asarray(Image.open(data / "test" / "masks" / "defect" / file.name)) > 0
            boxed += bool(answer.is_defect and covers(answer.boxes, mask))
        yield {
            "path": path,
            "defects": bad,
            "found": found,
            "boxed": boxed,
            "good": len(files) - bad,
            "false_alarms": alarms,
            "seconds": round(statistics.median(seconds), 2),
            "server_mb": round(memory(server.pid) / 1e6),
        }


def covers(boxes: NDArray[np.float32], mask: NDArray[np.bool_]) -> bool:
    """Whether a box covers the middle of a defect, and is at most three times as long as it and 24 pixels."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    middle = (x + width / 2, y + height / 2)
    return any(
        x1 <= middle[0] <= x2
        and y1 <= middle[1] <= y2
        and max(x2 - x1, y2 - y1) <= 3 * max(width, height) + 24
        for x1, y1, x2, y2 in boxes[:, :4].tolist()
    )


def memory(pid: int) -> int:
    """Bytes that a process and its children hold, shared pages divided among them."""
    process = psutil.Process(pid)
    return sum(each.memory_full_info().pss for each in (process, *process.children(recursive=True)))


def main(
    data: Annotated[Path, typer.Option(help="Folder for the drawn pictures, about 400 MB.")] = Path(
        "out/windows/pictures"
    ),
    names: Annotated[str, typer.Option(help="Lines of the table, separated by commas.")] = ",".join(LINES),
    json_file: Annotated[Path, typer.Option("--json", help="Results.")] = RESULTS,
) -> None:
    """Build every line, ask a server about it, and keep the rows."""
    data = data.resolve()
    draw(data)
    for name in names.split(","):
        repository = data.parent / line_of(name) / "repository"
        cost = build(name, data, repository)
        manifest = read(live_artefact(repository, line_of(name)))
        with (
            TritonServer(repository, grpc_port=0, http_port=0, metrics_port=0) as server,
            InspectionClient(server.grpc_url, timeout=600) as client,
        ):
            rows = [
                {
                    "name": name,
                    "detector": manifest.detector,
                    "teacher": f"{manifest.recipe['teacher']}@{manifest.teacher['fingerprint'][:8]}",
                    "size": f"{WIDTH}x{HEIGHT}",
                    **row,
                    **cost,
                    "command": f"python benchmarks/windows.py --names '{name}'",
                }
                for row in ask(client, server, line_of(name), data)
            ]
        merge_rows(json_file, rows, key=("name", "path"))
        print(json.dumps(rows, indent=2), flush=True)
    print(f"largest child: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6:.0f} MB")


if __name__ == "__main__":
    typer.run(main)
