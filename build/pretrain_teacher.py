"""Train the built-in teacher on generated lines: `python build/pretrain_teacher.py --budget 30m --out DIR`.

No data and no download. The backbone is a small ResNet cut after its third stage; what it learns is one or more
pretext tasks (`flawline.teachers.pretexts`) on pictures drawn while it trains (`flawline.teachers.generator`).
What it leaves in DIR is a backbone folder in Hugging Face layout. A checkpoint beside it lets the same command go
on where it was interrupted.
"""

import argparse
import json
import logging
import math
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import ResNetBackbone, ResNetConfig

from flawline.durations import read_duration
from flawline.errors import FlawlineError, RecipeError
from flawline.files import check_folder, check_output
from flawline.teachers.generator import Dice, Episode, draw_episode
from flawline.teachers.generator.formula import Formulas
from flawline.teachers.pretexts import PRETEXTS, Seen
from flawline.teachers.teacher import even_exposure
from flawline.training import TrainingState, freeze_statistics, train

log = logging.getLogger("pretrain_teacher")

SIZE = 96
LINES, NORMALS, TESTED = 8, 3, 2
"""Lines per step, and pictures of each."""
MEAN, STD = (0.4, 0.4, 0.4), (0.25, 0.25, 0.25)
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 2e-3, 0.02, 100
CHECKPOINT = "checkpoint.safetensors"
FREEZE_AT = 0.5
"""Share of training after which batch normalisation keeps its statistics, as it will in use."""
LOGGED_STEPS = 100
"""Steps between two lines of the log, which tell their mean losses."""


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


def pretrain(
    learner: Learner, out: Path, *, budget: float, steps: int | None, seed: int, device: torch.device
) -> int:
    """Train for `steps` or, without, until `budget` seconds are spent.

    Steps give one result on any machine of a kind; a budget gives what can be had in that time.

    Args:
        learner: backbone and tasks, trained in place.
        out: folder of the checkpoint; training goes on from one that is there.
        budget: seconds to train, those before an interruption included.
        steps: number of steps to train instead.
        seed: seed of the textures and the pictures.
        device: device to train on.

    Returns:
        The number of steps done.

    Raises:
        ArtefactError: the checkpoint is damaged, or of another training.
        DataError: the loss is not finite.

    """
    learner.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(learner.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    fixed = Formulas.draw(Dice(seed, device), learner.classes) if learner.classes else None
    recent: list[dict[str, float]] = []

    def step(number: int, done: float) -> Tensor:
        if done > FREEZE_AT:
            freeze_statistics(learner.backbone)
        # A generator of its own per step: a continued run draws what an unbroken one would have drawn.
        dice = Dice(seed + 1 + number, device)
        formula = dice.integers(LINES, high=learner.classes or 1)
        chosen = fixed.chosen(formula) if fixed is not None else Formulas.draw(dice, LINES)
        episode = draw_episode(dice, chosen, normals=NORMALS, tested=TESTED, size=SIZE, relit=learner.relit)
        parts = learner.losses(episode, formula)
        recent.append({name: part.item() for name, part in parts.items()})
        return torch.stack([learner.weights[name] * part for name, part in parts.items()]).sum()

    def rates(number: int, done: float) -> tuple[float]:
        # The rate follows what is left, so that training ends annealed however long it takes.
        return (LEARNING_RATE * min(1, (number + 1) / WARM_UP) * (1 + math.cos(math.pi * done)) / 2,)

    def tell(done: float, _loss: float) -> None:
        if len(recent) == LOGGED_STEPS:
            means = {name: sum(one[name] for one in recent) / len(recent) for name in learner.tasks}
            log.info(f"{done:.1%}  " + "  ".join(f"{name} {mean:.3f}" for name, mean in means.items()))
            recent.clear()

    identity = {
        "widths": learner.backbone.config.hidden_sizes,
        "pretexts": learner.weights,
        "steps": steps,
        "seed": seed,
    }
    training = train(
        step,
        TrainingState({"weight": learner}, optimiser, identity),
        steps=steps,
        rates=rates,
        clip=(5.0,),
        budget=None if steps else budget,
        checkpoint=out / CHECKPOINT,
        progress=tell,
    )
    return training.steps


def save_backbone(backbone: ResNetBackbone, out: Path) -> None:
    """Write the folder that `load_teacher` reads: weights in half precision, configuration, normalisation."""
    half = ResNetBackbone(backbone.config)
    half.load_state_dict(backbone.state_dict())
    half.half().save_pretrained(out)
    values = {"image_mean": MEAN, "image_std": STD}
    (out / "preprocessor_config.json").write_text(json.dumps(values, indent=2) + "\n")


def check_out(out: Path) -> None:
    """Refuse a folder that cannot be written, or that holds a teacher which this script did not train.

    Raises:
        OutputError: see above.

    """
    check_folder(out, "--out")
    if not (out / CHECKPOINT).exists():
        for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
            check_output(out / name, "--out")


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
    parser.add_argument(
        "--pretexts", type=pretexts, default=pretexts("bank"), help="tasks and weights: bank=1,marks=0.5"
    )
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[32, 64, 128], help="channels of the backbone's stages"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    try:
        check_out(arguments.out)
    except FlawlineError as error:
        parser.error(str(error))
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(arguments.seed)
    learner = Learner(arguments.widths, arguments.pretexts)
    try:
        steps = pretrain(
            learner,
            arguments.out,
            budget=arguments.budget,
            steps=arguments.steps,
            seed=arguments.seed,
            device=device,
        )
    except FlawlineError as error:
        parser.error(str(error))
    save_backbone(learner.cpu().backbone, arguments.out)
    log.info(f"{steps} steps, {steps * LINES * (NORMALS + TESTED)} pictures")


if __name__ == "__main__":
    main()
