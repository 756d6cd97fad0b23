"""Write a small artefact of today's format, and what it answers: `python tests/frozen/make.py`.

Run it only for a new format; the folders of older formats stay as they are, since they prove that artefacts of that
format are still served and loaded.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "unit"))

from small_lines import draw_line, small_recipe, write_teacher  # noqa: E402

from flawline.artefact.manifest import FORMAT  # noqa: E402
from flawline.detectors.fitted import FittedLine  # noqa: E402
from flawline.jobs.build import build  # noqa: E402

STUDENT = {"synthesis": "cutpaste", "blocks": 1, "training": {"steps": 4, "pairs": 2, "crop": 64}}


def main() -> None:
    """Build, keep the artefact, and write the answers of eager torch beside it."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        teacher = write_teacher(Path(scratch))
        dataset = draw_line(Path(scratch) / "data", normals=30, test_normals=3, test_defects=3, contrast=3.0)
        recipe = small_recipe(teacher, sacd=STUDENT, exdd={"positive": "none", "min_bank": 40})
        built = build(
            "sacd+exdd",
            dataset,
            "frozen",
            repository=Path(scratch) / "repository",
            recipe=recipe,
            target="onnxruntime",
        )
        home = HERE / f"format_{FORMAT}"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(built.folder, home / "artefact", ignore=shutil.ignore_patterns("__pycache__"))
        line, _ = FittedLine.load(home / "artefact")
        pictures = sorted((home / "artefact" / "reference").iterdir())
        answers = {}
        for path in pictures:
            (verdict,) = line.inspect([_read(path)])
            answers[path.name] = {
                "score": verdict.score,
                "p_value": verdict.p_value,
                "is_defect": verdict.is_defect,
                "peak": float(verdict.anomaly_map.max()),
                "boxes": verdict.boxes[verdict.boxes[:, 4] >= 0].tolist(),
            }
        (home / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")


def _read(path: Path):
    from flawline.scoring.picture import decode

    return decode(path.read_bytes())


if __name__ == "__main__":
    main()
