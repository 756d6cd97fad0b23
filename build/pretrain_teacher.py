"""Train the built-in teacher on generated surfaces: `python build/pretrain_teacher.py --budget 30m --out DIR`.

No data and no download. The backbone is a ResNet-18 cut after its third stage. It learns, from pictures drawn
while it trains (`flawline.teachers.pretraining`), to name the texture under every patch, to mark planted
irregularities, and to give a surface the same features under another light. What it leaves in DIR is a
backbone folder in Hugging Face layout; a checkpoint beside it lets `--resume` go on.
"""

import argparse
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetBackbone, ResNetConfig

from flawline.progress import say
from flawline.teachers.patch_features import PatchFeatures
from flawline.teachers.pretraining import (
    Batch,
    Dice,
    Textures,
    draw_batch,
    paint,
    palette,
    photograph,
    plant,
)
from flawline.teachers.teacher import Teacher

CLASSES = 256
SIZE = 96
WIDTHS = [64, 128, 256]
SURFACES = 16
"""Per step; each is photographed twice."""
PATCHES, TEMPERATURE = 18, 0.1
"""Patches per picture, and softness, of the search for a patch under another light."""
MEAN, STD = (0.4, 0.4, 0.4), (0.25, 0.25, 0.25)
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 1.5e-3, 0.02, 100
CHECKPOINT_SECONDS = 120
VALIDATION_SEED = 2**31


class Learner(nn.Module):
    """The backbone and the heads that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        config = ResNetConfig(layer_type="basic", embedding_size=64, depths=[2, 2, 2], hidden_sizes=WIDTHS)
        config.out_indices = [1, 2, 3]
        self.backbone = ResNetBackbone(config)
        # Linear heads on every stage, so that what they need lies open in the features themselves.
        self.irregular = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in WIDTHS)
        self.texture = nn.ModuleList(nn.Conv2d(width, CLASSES, 1) for width in WIDTHS[1:])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Give each part of the loss, a scalar each."""
        pixels = torch.cat((batch.first, batch.second)).permute(0, 3, 1, 2)
        pixels = pixels.to(memory_format=torch.channels_last).float()
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
            maps = self.backbone((pixels / 255 - MEAN[0]) / STD[0]).feature_maps
            marks = [head(part) for head, part in zip(self.irregular, maps, strict=True)]
            names = [head(part) for head, part in zip(self.texture, maps[1:], strict=True)]
        return {
            "texture": torch.stack([_texture_loss(part.float(), batch) for part in names]).mean(),
            "irregular": torch.stack(
                [_irregular_loss(part.float(), batch.irregular) for part in marks]
            ).mean(),
            "light": torch.stack([_light_loss(part.float()) for part in maps[1:]]).mean(),
        }


def _texture_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy with the share of each texture under the patch as its soft target."""
    share = F.adaptive_avg_pool2d(batch.inner, _grid(logits)).repeat(2, 1, 1, 1)[:, 0]
    log_p = logits.log_softmax(dim=1)
    first, second = batch.outer_class.repeat(2), batch.inner_class.repeat(2)
    rows = torch.arange(len(logits), device=logits.device)
    return -((1 - share) * log_p[rows, first] + share * log_p[rows, second]).mean()


def _irregular_loss(logits: Tensor, irregular: Tensor) -> Tensor:
    """Binary cross-entropy; a patch is irregular if any of its pixels is, and such patches count threefold."""
    target = F.adaptive_max_pool2d(irregular, _grid(logits)).repeat(2, 1, 1, 1)
    return F.binary_cross_entropy_with_logits(logits, target, pos_weight=logits.new_tensor(3.0))


def _light_loss(part: Tensor) -> Tensor:
    """InfoNCE: find every patch of the first photograph again in the second, among those of all surfaces.

    Other patches of the same surface are the hard ones to tell apart, so that what is local stays visible
    while what light does drops out. Asking only for equal features would let them die.
    """
    flat = part.permute(0, 2, 3, 1).flatten(1, 2)
    stride = flat.shape[1] // PATCHES
    patches = flat[:, ::stride] - flat.mean(dim=(0, 1))
    first, second = F.normalize(patches, dim=-1).chunk(2)
    likeness = first.flatten(0, 1) @ second.flatten(0, 1).T / TEMPERATURE
    target = torch.arange(len(likeness), device=part.device)
    return (F.cross_entropy(likeness, target) + F.cross_entropy(likeness.T, target)) / 2


def _grid(part: Tensor) -> tuple[int, int]:
    return part.shape[2], part.shape[3]


class Checkpoint:
    """Weights, optimiser state and progress in one safetensors file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, learner: Learner, optimiser: torch.optim.Optimizer, progress: dict[str, float]) -> None:
        """Write all of it, atomically."""
        tensors = {f"weight/{name}": value.contiguous() for name, value in learner.state_dict().items()}
        for number, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{number}/{key}": value.contiguous() for key, value in state.items()}
        temporary = self.path.with_suffix(".tmp")
        save_file(tensors, temporary, metadata={"progress": json.dumps(progress)})
        temporary.replace(self.path)

    def load(self, learner: Learner, optimiser: torch.optim.Optimizer) -> dict[str, float]:
        """Fill `learner` and `optimiser`; gives the progress saved with them."""
        with safe_open(self.path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            progress = json.loads(file.metadata()["progress"])
        learner.load_state_dict({k.removeprefix("weight/"): v for k, v in tensors.items() if k[0] == "w"})
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser/"):
                _, number, key = name.split("/")
                states.setdefault(int(number), {})[key] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
        return {key: float(value) for key, value in progress.items()}


def train(
    learner: Learner, out: Path, *, budget: float, seed: int, resume: bool, device: torch.device
) -> int:
    """Train until `budget` seconds are spent, those before a resumed checkpoint included; gives the steps."""
    learner.to(device).train()
    optimiser = torch.optim.AdamW(learner.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    checkpoint = Checkpoint(out / "checkpoint.safetensors")
    progress = {"step": 0.0, "seconds": 0.0}
    if resume and checkpoint.path.exists():
        progress = checkpoint.load(learner, optimiser)
        say(f"going on from step {progress['step']:.0f}")
    step, spent = int(progress["step"]), progress["seconds"]
    textures = Textures.draw(Dice(seed, device), CLASSES, SIZE)
    start = saved = time.monotonic()
    while (elapsed := spent + time.monotonic() - start) < budget:
        # The rate follows the time left, so that training ends annealed on any machine.
        rate = LEARNING_RATE * min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * elapsed / budget)) / 2
        for group in optimiser.param_groups:
            group["lr"] = rate
        # A generator of its own per step: a resumed run draws what an unbroken one would have drawn.
        parts = learner.loss(draw_batch(textures, SURFACES, Dice(seed + 1 + step, device)))
        optimiser.zero_grad(set_to_none=True)
        (parts["texture"] + 2 * parts["irregular"] + 0.5 * parts["light"]).backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 5.0)
        optimiser.step()
        step += 1
        if step % 50 == 0:
            values = "  ".join(f"{name} {value.item():.3f}" for name, value in parts.items())
            say(f"step {step}  {elapsed / 60:.1f} of {budget / 60:.0f} min  {values}")
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            checkpoint.save(learner, optimiser, {"step": step, "seconds": elapsed})
            saved = time.monotonic()
    checkpoint.save(learner, optimiser, {"step": step, "seconds": elapsed})
    return step


def save_backbone(backbone: ResNetBackbone, out: Path) -> None:
    """Write the folder that `load_teacher` reads: weights in half precision, configuration, normalisation."""
    half = ResNetBackbone(backbone.config)
    half.load_state_dict(backbone.state_dict())
    half.half().save_pretrained(out)
    values = {"image_mean": MEAN, "image_std": STD}
    (out / "preprocessor_config.json").write_text(json.dumps(values, indent=2) + "\n")


@torch.inference_mode()
def validate(backbone: ResNetBackbone, *, lines: int = 24) -> dict[str, float]:
    """Detect planted irregularities on generated lines whose textures training never drew.

    Each line: a bank of every fourth patch of 24 normal pictures; 12 other normal and 24 irregular ones, scored by
    distance to the bank's nearest patch. Gives the means over lines of `image_auroc` and `pixel_auroc`, and
    `light`: the same surface's distance under two lights over the median distance to the nearest normal patch.
    """
    teacher = Teacher(backbone, source="in training", fingerprint="", mean=MEAN, std=STD)
    rows = [_validate_line(teacher, line) for line in range(lines)]
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _validate_line(teacher: Teacher, line: int, size: int = 128) -> dict[str, float]:
    dice = Dice(VALIDATION_SEED + line)
    textures = Textures.draw(dice, 2, size, held_out=True)
    normals, irregular = 36, 24
    surface = paint(
        textures.field(torch.zeros(normals + irregular, dtype=torch.long), dice),
        palette(1, dice).expand(normals + irregular, -1, -1),
    )
    other = textures.field(torch.ones(irregular, dtype=torch.long), dice)
    planted, mask = plant(surface[normals:], other, dice, share=1.0)
    surface = torch.cat((surface[:normals], planted))
    features = _features(teacher, photograph(surface, dice, unrest=0.15))
    bank, tested = features[:24].flatten(0, 1)[::4], features[24:]
    distance = torch.stack([_nearest(one, bank) for one in tested])
    label = np.repeat([False, True], [normals - 24, irregular])
    grid = math.isqrt(distance.shape[1])
    upsampled = F.interpolate(distance.view(-1, 1, grid, grid), size=(size, size), mode="bilinear")[:, 0]
    pixel_label = torch.cat((torch.zeros(normals - 24, size, size), mask)) > 0
    relit = _features(teacher, photograph(surface[:24], dice))
    return {
        "image_auroc": auroc(distance.amax(dim=1).numpy(), label),
        "pixel_auroc": auroc(upsampled.flatten().numpy(), pixel_label.flatten().numpy()),
        "light": float((features[:24] - relit).norm(dim=2).median() / distance[: normals - 24].median()),
    }


def _features(teacher: Teacher, pictures: Tensor) -> Tensor:
    # The last two stages, as `load_teacher` takes them by default; training uses the first as well.
    return torch.cat([PatchFeatures()(teacher(part)[-2:]) for part in pictures.split(20)])


def _nearest(patches: Tensor, bank: Tensor) -> Tensor:
    """Euclidean distance of each patch to its nearest in the bank; by products, as torch.cdist is far slower."""
    squares = patches.square().sum(dim=1)[:, None] + bank.square().sum(dim=1) - 2 * patches @ bank.T
    return squares.amin(dim=1).clamp_min(0).sqrt()


def auroc(score: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve; scores are distances, so ties do not matter."""
    ranks = np.empty(len(score))
    ranks[np.argsort(score)] = np.arange(1, len(score) + 1)
    positive = int(label.sum())
    below = ranks[label].sum() - positive * (positive + 1) / 2
    return float(below / (positive * (len(label) - positive)))


def seconds(text: str) -> float:
    """Read a duration such as 90s, 20m or 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None:
        msg = f"{text!r} is no duration; write for example 90s, 20m or 2h"
        raise argparse.ArgumentTypeError(msg)
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def main() -> None:
    """Parse the command line, train, write and validate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--budget", type=seconds, default=seconds("30m"), help="time to train: 90s, 20m, 2h")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the textures and the pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the backbone and the checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(arguments.seed)
    learner = Learner()
    say(f"random weights: {validate(learner.backbone)}")
    learner.backbone.requires_grad_(requires_grad=True)
    steps = train(
        learner,
        arguments.out,
        budget=arguments.budget,
        seed=arguments.seed,
        resume=arguments.resume,
        device=device,
    )
    backbone = learner.cpu().backbone
    save_backbone(backbone, arguments.out)
    say(f"after {steps} steps: {validate(backbone)}")


if __name__ == "__main__":
    main()
