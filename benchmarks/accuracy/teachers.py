"""Compare teachers on generated validation lines: `python benchmarks/accuracy/teachers.py FOLDER...`.

Lines of layout `surfaces`, whose pictures are drawn by other code than what teachers are trained on; each family
once under steady light and once with exposures two stops apart. Normal bank only, 256 px, no coreset but random
patches, so that a teacher takes a minute. Rows go into results/teachers.json; the built-in teacher is chosen by the
mean over lines, and by nothing else.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from sklearn.metrics import roc_auc_score

from flawline.data import Dataset, load_dataset
from flawline.data.squares import Squares
from flawline.detectors.exdd.banks import BATCH, BankFiller
from flawline.detectors.exdd.config import ExDDConfig
from flawline.detectors.exdd.model import MemoryBank
from flawline.detectors.exdd.part import ExDDPart
from flawline.detectors.line import Line
from flawline.files import write_atomically
from flawline.jobs.fit import find_all, positions
from flawline.scoring.fusion import observe
from flawline.teachers import Teacher, load_teacher
from flawline.teachers.adapt import AdaptConfig, adapt

RESULTS = Path(__file__).parents[1] / "results" / "teachers.json"
FAMILIES = ("woven", "brushed_metal", "cast", "leather", "ground_steel")
LINES = tuple(
    f"surfaces:{family},seed={seed},normals=40,test_normals=30,test_defects=30,train_defects=0,light={light}"
    for seed, light in ((101, 0.0), (102, 1.0))
    for family in FAMILIES
)
SIZE, BANK = 256, 4000


def quick_part(teacher: Teacher, normals: Squares) -> ExDDPart:
    """`exdd` with a bank of BANK patches of normal pictures, drawn by chance."""
    filler = BankFiller(teacher, ExDDConfig(), size=SIZE, seed=0)
    parts = [filler.embed(normals[start : start + BATCH]) for start in range(0, len(normals), BATCH)]
    patches = torch.cat(parts).flatten(0, 2)
    chosen = np.random.default_rng(0).choice(len(patches), BANK, replace=False)
    bank = MemoryBank.of(patches[torch.from_numpy(chosen)], filler.config.neighbours)
    return ExDDPart(filler.config, positions(ExDDPart, teacher.layers, teacher), bank, None, {})


def quick_score(teacher: Teacher, dataset: Dataset, adapted: AdaptConfig) -> dict[str, float]:
    """Image and pixel AUROC of a normal bank of randomly chosen patches, on the test pictures of `dataset`."""
    squares = Squares(dataset.train_normals, SIZE)
    items = [sample.group for sample in dataset.train_normals]
    teacher, _ = adapt(teacher, [square.pixels for square in squares], items, adapted, seed=0)
    line = Line(teacher, [quick_part(teacher, squares)])
    tested = Squares(dataset.test, SIZE)
    scores, labels, pixels, truths = [], [], [], []
    for sample, (findings, geometry) in zip(dataset.test, find_all(line, tested, "scoring"), strict=True):
        seen = observe(findings[0], geometry, line.parts[0].settings())
        scores.append(seen.score)
        labels.append(sample.mask is not None)
        pixels.append(np.asarray(seen.map)[::2, ::2].ravel())
        truths.append(sample.read_mask(SIZE, SIZE)[::2, ::2].ravel())
    return {
        "image_auroc": float(roc_auc_score(labels, scores)),
        "pixel_auroc": float(roc_auc_score(np.concatenate(truths), np.concatenate(pixels))),
    }


def main(
    teachers: Annotated[list[str], typer.Argument(help="builtin, or folders.")],
    layers: Annotated[str, typer.Option(help="Stages, separated by commas; default: the teacher's.")] = "",
    even: Annotated[bool, typer.Option(help="Bring pictures to one exposure first.")] = True,
    steps: Annotated[int, typer.Option(help="Of adaptation to each line.")] = 0,
    json_file: Annotated[Path, typer.Option("--json")] = RESULTS,
) -> None:
    """Score every teacher on every line, print the figures and keep them."""
    stages = tuple(map(int, layers.split(","))) if layers else None
    for name in teachers:
        teacher = load_teacher(name, layers=stages, even_exposure=even)
        lines = {line: quick_score(teacher, load_dataset(line), AdaptConfig(steps=steps)) for line in LINES}
        mean = {
            key: round(float(np.mean([row[key] for row in lines.values()])), 4) for key in lines[LINES[0]]
        }
        row = {
            "teacher": Path(name).name,
            "fingerprint": teacher.fingerprint[:8],
            "layers": list(teacher.layers),
            "even_exposure": even,
            "adapt_steps": steps,
            **mean,
            "lines": {
                line.split(",normals")[0] + line[line.rindex(",") :]: row for line, row in lines.items()
            },
        }
        known = json.loads(json_file.read_text()) if json_file.exists() else []
        same = ("fingerprint", "layers", "even_exposure", "adapt_steps")
        known = [other for other in known if any(other[key] != row[key] for key in same)] + [row]
        write_atomically(json_file, json.dumps(known, indent=2) + "\n", over=True)
        print(name, stages or teacher.layers, "even" if even else "as is", mean)
        print("  ", "  ".join(f"{row['image_auroc']:.2f}/{row['pixel_auroc']:.2f}" for row in lines.values()))


if __name__ == "__main__":
    typer.run(main)
