"""What each detector's graph costs beside the teacher alone: `python benchmarks/graph_cost.py`.

Graphs as they are published, compiled for OpenVINO, one square of 256 pixels at a time, in turns in one process;
the ratios are medians over the turns. What a student has learned does not change its cost: these learned nothing.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn

from flawline.detectors.ddpm_ast.config import DDPMASTConfig
from flawline.detectors.exdd.model import ExDD, MemoryBank
from flawline.detectors.line import Line
from flawline.detectors.students.fit import STUDENTS, make_student
from flawline.detectors.students.levels import levelled
from flawline.jobs.fit import DETECTORS, parse_detector
from flawline.jobs.learning import load_shared_teacher
from flawline.recipe import Recipe
from flawline.report.evaluation import merge_rows
from flawline.scoring.ratio import ImageScore
from flawline.targets import get_target
from flawline.targets.target import Graph
from flawline.teachers import PatchFeatures, Teacher

RESULTS = Path(__file__).parent / "results" / "graph_cost.json"
TEACHER = "teacher alone"
FAR = ", head that looks far"
SIZE = 256


class Bare(nn.Module):
    """A teacher and nothing else, as a graph of the same input."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Its maps."""
        maps: list[Tensor] = self.teacher(pictures)
        return maps


class Parts(nn.Module):
    """What a line computes in its graph, without the constants that it hands on."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self.line = line

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Embedding and discrepancy, as far as there."""
        return [part for part in self.line(pictures) if part is not None]


def untrained(detector: str, recipe: Recipe) -> Line:
    """A line of a recipe that has learned nothing."""
    kind, has_memory = parse_detector(detector)
    teacher, memory_maps, student_maps = load_shared_teacher(
        recipe, student=kind is not None, memory=has_memory
    )
    normals = torch.randint(0, 255, (8, SIZE, SIZE, 3), dtype=torch.uint8)
    memory, student = None, None
    if has_memory:
        bank = MemoryBank(torch.rand(4, 4), 1)  # searched outside the graph
        features = PatchFeatures(chosen=memory_maps)
        memory = ExDD(features, bank, None, image_score=ImageScore.MAP_PEAK, positive_weight=0.0)
    if kind in STUDENTS:
        made = make_student(recipe.student(kind), teacher, student_maps, normals, seed=0).eval()

        def maps_of(pixels: Tensor) -> list[Tensor]:
            maps = teacher.maps(pixels)
            return [maps[position] for position in student_maps]

        student = levelled(made, teacher, maps_of, [(normals, [(SIZE, SIZE)] * len(normals))])
    return Line(teacher, memory, student, student_maps).eval()


def compiled(module: nn.Module, folder: Path, threads: int) -> Graph:
    """Export as `flawline build` does and load for OpenVINO."""
    folder.mkdir()
    program = torch.onnx.export(
        module,
        (torch.zeros((1, SIZE, SIZE, 3), dtype=torch.uint8),),
        dynamo=True,
        input_names=["PICTURE"],
        verbose=False,
    )
    if program is None:
        msg = "torch.onnx.export returned no program"
        raise RuntimeError(msg)
    program.save(folder / "model.onnx", external_data=False)
    target = get_target("openvino")
    target.compile(module, folder / "model.onnx", folder)
    return target.load(folder, threads)


def main(
    rounds: Annotated[int, typer.Option(help="Turns; each graph runs five times a turn.")] = 40,
    json_file: Annotated[Path, typer.Option("--json")] = RESULTS,
) -> None:
    """Time every graph in turns and keep a row each."""
    threads = len(os.sched_getaffinity(0))
    modules = {TEACHER: Bare(load_shared_teacher(Recipe(), student=False, memory=True)[0]).eval()}
    modules |= {detector: Parts(untrained(detector, Recipe())).eval() for detector in DETECTORS}
    far = Recipe(ddpm_ast=DDPMASTConfig(far=True))
    modules |= {
        detector + FAR: Parts(untrained(detector, far)).eval()
        for detector in DETECTORS
        if "ddpm_ast" in detector
    }
    picture = np.random.default_rng(0).integers(0, 255, (1, SIZE, SIZE, 3), dtype=np.uint8)
    times: dict[str, list[float]] = {name: [] for name in modules}
    with tempfile.TemporaryDirectory(prefix="flawline-cost-") as scratch, torch.inference_mode():
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
