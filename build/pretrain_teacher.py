"""Train the built-in teacher on generated lines: `python build/pretrain_teacher.py --budget 30m --out DIR`.

No data and no download. The backbone is a small ResNet cut after its third stage; what it learns is one or more
pretext tasks (`flawline.teachers.pretexts`) on pictures drawn while it trains (`flawline.teachers.generator`).
What it leaves in DIR is a backbone folder in Hugging Face layout; a checkpoint beside it lets `--resume` go on.
Needs torch, numpy, safetensors and transformers, and nothing else.
"""

import argparse
import json
import logging
import math
import time
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import ResNetBackbone, ResNetConfig

from flawline.durations import read_duration
from flawline.errors import RecipeError
from flawline.teachers.generator import Dice, Episode, draw_episode
from flawline.teachers.generator.formula import Formulas
from flawline.teachers.pretexts import PRETEXTS, Seen
from flawline.teachers.teacher import even_exposure
from flawline.training.state import (
    fill_module,
    fill_optimiser,
    module_tensors,
    optimiser_tensors,
    save_tensors,
)

log = logging.getLogger("pretrain_teacher")

SIZE = 96
LINES, NORMALS, TESTED = 8, 3, 2
"""Lines per step, and pictures of each."""
MEAN, STD = (0.4, 0.4, 0.4), (0.25, 0.25, 0.25)
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 2e-3, 0.02, 100
FREEZE_AT = 0.5
"""Share of training after which batch normalisation keeps its statistics, as it will in use."""
CHECKPOINT_SECONDS = 120


class Learner(nn.Module):
    """The backbone and the tasks, with the heads that only training needs."""

    def __init__(self, widths: list[int], pretexts: dict[str, float]) -> None:
        """Take the widths of the stages, and the weight of each task of PRETEXTS."""
        super().__init__()
        config = ResNetConfig(
            layer_type="basic", embedding_size=widths[0], depths=[2] * len(widths), hidden_sizes=widths
        )
        config.out_indices = list(range(1, len(widths) + 1))
        self.backbone = ResNetBackbone(config)
        self.tasks = nn.ModuleDict({name: PRETEXTS[name](widths) for name in pretexts})
        self.weights = pretexts

    @property
    def relit(self) -> bool:
        """Whether a task needs the tested pictures under a second light."""
        return any(task.relit for task in self.tasks.values())

    @property
    def classes(self) -> int:
        """Size of the fixed set of formulas that a task asks for, 0 for ever new ones."""
        return max(cast(int, task.classes) for task in self.tasks.values())

    def losses(self, episode: Episode, formula: Tensor) -> dict[str, Tensor]:
        """Give each task's loss, a scalar."""
        parts = [episode.normal, episode.tested] + ([] if episode.relit is None else [episode.relit])
        pixels = torch.cat([part.flatten(0, 1) for part in parts]).permute(0, 3, 1, 2)
        pixels = pixels.to(memory_format=torch.channels_last).float()
        # Half of the pictures as they are, half as lines with uneven light show them to the teacher.
        even = torch.arange(LINES, device=pixels.device) % 2 == 0
        chosen = torch.cat([even.repeat_interleave(part.shape[1]) for part in parts])
        pixels = torch.where(chosen[:, None, None, None], even_exposure(pixels), pixels)
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
            maps = self.backbone((pixels / 255 - MEAN[0]) / STD[0]).feature_maps
        counts = [len(part.flatten(0, 1)) for part in parts]
        pieces = [[piece.unflatten(0, (LINES, -1)) for piece in part.float().split(counts)] for part in maps]
        seen = Seen(
            normal=[piece[0] for piece in pieces],
            tested=[piece[1] for piece in pieces],
            relit=[piece[2] for piece in pieces] if self.relit else [],
            formula=formula,
        )
        return {name: task(seen, episode) for name, task in self.tasks.items()}


class Checkpoint:
    """Weights, optimiser state and progress in one safetensors file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, learner: Learner, optimiser: torch.optim.Optimizer, progress: dict[str, float]) -> None:
        """Write all of it, atomically."""
        tensors = module_tensors("weight", learner) | optimiser_tensors(optimiser)
        save_tensors(self.path, tensors, {"progress": json.dumps(progress)})

    def load(self, learner: Learner, optimiser: torch.optim.Optimizer) -> dict[str, float]:
        """Fill `learner` and `optimiser`; gives the progress saved with them."""
        with safe_open(self.path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            progress = json.loads(file.metadata()["progress"])
        fill_module("weight", learner, tensors)
        fill_optimiser(optimiser, tensors)
        return {key: float(value) for key, value in progress.items()}


def train(
    learner: Learner,
    out: Path,
    *,
    budget: float,
    steps: int | None,
    seed: int,
    resume: bool,
    device: torch.device,
) -> int:
    """Train for `steps` or, without, until `budget` seconds are spent, checkpoint included; gives the steps.

    Steps give one result on any machine of a kind; a budget gives what can be had in that time.
    """
    learner.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(learner.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    checkpoint = Checkpoint(out / "checkpoint.safetensors")
    progress = {"step": 0.0, "seconds": 0.0}
    if resume and checkpoint.path.exists():
        progress = checkpoint.load(learner, optimiser)
        log.info(f"going on from step {progress['step']:.0f}")
    step, spent = int(progress["step"]), progress["seconds"]
    fixed = Formulas.draw(Dice(seed, device), learner.classes) if learner.classes else None
    mean = dict.fromkeys(learner.tasks, 0.0)
    start = saved = time.monotonic()
    elapsed = spent
    while (done := step / steps if steps else elapsed / budget) < 1:
        # The rate follows what is left, so that training ends annealed however long it takes.
        rate = LEARNING_RATE * min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * done)) / 2
        for group in optimiser.param_groups:
            group["lr"] = rate
        if done > FREEZE_AT:
            _freeze_normalisation(learner.backbone)
        # A generator of its own per step: a resumed run draws what an unbroken one would have drawn.
        dice = Dice(seed + 1 + step, device)
        formula = dice.integers(LINES, high=learner.classes or 1)
        chosen = fixed.chosen(formula) if fixed is not None else Formulas.draw(dice, LINES)
        episode = draw_episode(dice, chosen, normals=NORMALS, tested=TESTED, size=SIZE, relit=learner.relit)
        parts = learner.losses(episode, formula)
        optimiser.zero_grad(set_to_none=True)
        torch.stack([learner.weights[name] * part for name, part in parts.items()]).sum().backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 5.0)
        optimiser.step()
        step += 1
        elapsed = spent + time.monotonic() - start
        mean = {name: mean[name] + part.item() / 100 for name, part in parts.items()}
        if step % 100 == 0:
            values = "  ".join(f"{name} {value:.3f}" for name, value in mean.items())
            log.info(f"step {step}  {done:.1%}  {elapsed / 60:.1f} min  {values}")
            mean = dict.fromkeys(mean, 0.0)
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            checkpoint.save(learner, optimiser, {"step": step, "seconds": elapsed})
            saved = time.monotonic()
    checkpoint.save(learner, optimiser, {"step": step, "seconds": elapsed})
    return step


def _freeze_normalisation(backbone: nn.Module) -> None:
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def save_backbone(backbone: ResNetBackbone, out: Path) -> None:
    """Write the folder that `load_teacher` reads: weights in half precision, configuration, normalisation."""
    half = ResNetBackbone(backbone.config)
    half.load_state_dict(backbone.state_dict())
    half.half().save_pretrained(out)
    values = {"image_mean": MEAN, "image_std": STD}
    (out / "preprocessor_config.json").write_text(json.dumps(values, indent=2) + "\n")


def seconds(text: str) -> float:
    """Read a duration such as 90s, 20m or 2h."""
    try:
        return cast(float, read_duration(text))
    except RecipeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> int:
    """Read a number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        msg = f"{text!r}: give a whole number of at least 1"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def pretexts(text: str) -> dict[str, float]:
    """Read tasks and weights such as bank or bank=1,marks=0.5."""
    weights = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        if name not in PRETEXTS:
            msg = f"there is no task {name!r}; choose among {', '.join(PRETEXTS)}"
            raise argparse.ArgumentTypeError(msg)
        try:
            weights[name] = float(weight or 1)
        except ValueError as error:
            msg = f"{part!r}: a weight is a number, as in {name}=0.5"
            raise argparse.ArgumentTypeError(msg) from error
    return weights


def main() -> None:
    """Parse the command line, train and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--budget", type=seconds, default=seconds("30m"), help="time to train: 90s, 20m, 2h")
    parser.add_argument(
        "--steps", type=positive, help="train for so many steps instead, however long they take"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the textures and the pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the backbone and the checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument(
        "--pretexts", type=pretexts, default=pretexts("bank"), help="tasks and weights: bank=1,marks=0.5"
    )
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[32, 64, 128], help="channels of the backbone's stages"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(arguments.seed)
    learner = Learner(arguments.widths, arguments.pretexts)
    steps = train(
        learner,
        arguments.out,
        budget=arguments.budget,
        steps=arguments.steps,
        seed=arguments.seed,
        resume=arguments.resume,
        device=device,
    )
    save_backbone(learner.cpu().backbone, arguments.out)
    log.info(f"{steps} steps, {steps * LINES * (NORMALS + TESTED)} pictures")


if __name__ == "__main__":
    main()
