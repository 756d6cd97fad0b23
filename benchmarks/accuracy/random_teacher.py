"""A teacher that has learned nothing, the floor for every other: `python benchmarks/accuracy/random_teacher.py 0`.

It has the built-in teacher's shape and normalisation. `run.py --floor` makes and measures it.
"""

import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import ROOT
from safetensors.torch import save_file
from transformers import ResNetBackbone, ResNetConfig

from flawline.teachers.transformers_models import BUILTIN_FOLDER

FOLDER = Path("out/teachers")
"""Below the repository root; relative, so that the commands of rows repeat elsewhere."""


def teacher_folder(seed: int) -> Path:
    """Where the teacher of this seed lies, relative to the repository root."""
    return FOLDER / f"random-{seed}"


def write_random_teacher(seed: int, folder: Path) -> None:
    """Write weights as ResNet draws them before any training, FP16, into `folder`; the same for the same seed.

    Args:
        seed: of the weights.
        folder: made if missing; what it held of an earlier teacher is replaced.

    Raises:
        OSError: the folder cannot be written.

    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copyfile(BUILTIN_FOLDER / name, folder / name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = ResNetBackbone(ResNetConfig.from_pretrained(BUILTIN_FOLDER)).float().state_dict()
    halved = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})


def main(seed: Annotated[int, typer.Argument(help="Of the random weights.")] = 0) -> None:
    """Write it to out/teachers/random-<seed>/."""
    folder = teacher_folder(seed)
    write_random_teacher(seed, ROOT / folder)
    print(folder)


if __name__ == "__main__":
    typer.run(main)
