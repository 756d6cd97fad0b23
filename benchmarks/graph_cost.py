"""What each detector's graph costs beside the teacher alone: `python benchmarks/graph_cost.py`.

Graphs as they are published, compiled for OpenVINO, one square of 256 pixels at a time, in turns in one process;
the ratios are medians over the turns. What a student has learned does not change its cost: these learned for one
step.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from torch import Tensor

from flawline.data import load_dataset
from flawline.detectors.export import LineGraph, export_onnx
from flawline.detectors.line import Line
from flawline.jobs.fit import fit
from flawline.recipe import read_recipe
from flawline.report.evaluation import merge_rows
from flawline.targets import get_target
from flawline.targets.target import Graph
from flawline.teachers import Teacher

RESULTS = Path(__file__).parent / "results" / "graph_cost.json"
DATA = "surfaces:woven,normals=12,test_normals=0,test_defects=0,train_defects=0"
DETECTORS = ("exdd", "sacd", "ddpm_ast", "sacd+exdd", "ddpm_ast+exdd")
TEACHER = "teacher alone"
FAR = ", head that looks far"
SIZE = 256
KEY = (0, 0)


class TeacherGraph(LineGraph):
    """A teacher and nothing else, as a graph of the same input."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__(Line(teacher, ()), KEY)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its maps."""
        return tuple(f"MAP_{layer}" for layer in self.line.teacher.layers)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Its maps."""
        return tuple(self.line.teacher(pictures))


def graph_of(detector: str, *, far: bool = False) -> LineGraph:
    """Fit a line in the shortest way."""
    training = {"steps": 1, "pairs": 2}
    recipe = read_recipe(
        None,
        size=SIZE,
        false_alarm=0.5,
        positive="none",
        sacd={"training": training},
        ddpm_ast={"training": training, "far": far},
    )
    return LineGraph(fit(detector, load_dataset(DATA), recipe, seed=0, device="cpu").model, KEY)


def compiled(graph: LineGraph, folder: Path, threads: int) -> Graph:
    """Export as `flawline build` does and load for OpenVINO."""
    folder.mkdir()
    export_onnx(graph, SIZE, folder / "model.onnx")
    target = get_target("openvino")
    target.compile(graph, folder / "model.onnx", folder)
    return target.load(folder, threads)


def main(
    rounds: Annotated[int, typer.Option(help="Turns; each graph runs five times a turn.")] = 40,
    json_file: Annotated[Path, typer.Option("--json")] = RESULTS,
) -> None:
    """Time every graph in turns and keep a row each."""
    threads = len(os.sched_getaffinity(0))
    lines = {detector: graph_of(detector) for detector in DETECTORS}
    lines |= {
        detector + FAR: graph_of(detector, far=True) for detector in DETECTORS if "ddpm_ast" in detector
    }
    modules = {TEACHER: TeacherGraph(lines["exdd"].line.teacher), **lines}
    picture = np.random.default_rng(0).integers(0, 255, (1, SIZE, SIZE, 3), dtype=np.uint8)
    times: dict[str, list[float]] = {name: [] for name in modules}
    with tempfile.TemporaryDirectory(prefix="flawline-cost-") as scratch:
        graphs = {
            name: compiled(module, Path(scratch) / str(number), threads)
            for number, (name, module) in enumerate(modules.items())
        }
        for turn in range(rounds + 1):
            for name, graph in graphs.items():
                started = time.perf_counter()
                for _ in range(5):
                    graph.run(picture)
                if turn:  # the first warms up
                    times[name].append((time.perf_counter() - started) / 5 * 1000)
    rows = [
        {
            "name": name,
            "ms": round(statistics.median(found), 2),
            "ratio_to_teacher": round(
                statistics.median(a / b for a, b in zip(found, times[TEACHER], strict=True)), 2
            ),
            "parameters": sum(parameter.numel() for parameter in modules[name].parameters()),
            "threads": threads,
            "command": f"python benchmarks/graph_cost.py --rounds {rounds}",
        }
        for name, found in times.items()
    ]
    merge_rows(json_file, rows, ("name", "threads"))
    for row in rows:
        print(
            f"{row['name']:35s} {row['ms']:7.2f} ms  {row['ratio_to_teacher']:.2f} x  {row['parameters']:,}"
        )


if __name__ == "__main__":
    typer.run(main)
