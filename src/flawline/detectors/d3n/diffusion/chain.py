"""The chain of D3N's trainings before the last one: diffusion model, ResVAE, feature repository, fused detector.

The deployed network is the light detector, which the last training makes with `Taught.guide` (D3N, abstract); see
flawline.detectors.d3n.part.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flawline.detectors.d3n.config import D3NConfig
from flawline.detectors.d3n.diffusion.config import DiffusionConfig
from flawline.detectors.d3n.diffusion.cross_fusion import Fusion
from flawline.detectors.d3n.diffusion.entries import Entries
from flawline.detectors.d3n.diffusion.features import Features, feature_shapes, weights_digest
from flawline.detectors.d3n.diffusion.fgd import Distillation
from flawline.detectors.d3n.diffusion.fused import Fused
from flawline.detectors.d3n.diffusion.resvae import Codec, ResVAE, train_resvae
from flawline.detectors.d3n.learn import train_detector
from flawline.detectors.d3n.network import Detector
from flawline.detectors.d3n.pictures import Batch, Labelled
from flawline.progress import bar, say
from flawline.scoring.picture import Pixels
from flawline.synthesis.base import digest
from flawline.synthesis.ddpm import train_ddpm
from flawline.teachers import Teacher
from flawline.training import Budget, Training

FOLDER = "diffusion"


@dataclass(frozen=True)
class Material:
    """What the chain learns from, and how.

    Attributes:
        teacher: prepares pictures as they are prepared in use; on the device that does the work.
        pictures: labelled pictures.
        squares: the same pictures as squares UINT8 [S, S, 3], in the same order.
        seed: seed of every random choice.
        budget: time for everything that is trained.
        checkpoint: folder for the state of trainings and the repository; None keeps them in a temporary one.
        identity: what made teacher and squares, as JSON values.

    """

    teacher: Teacher
    pictures: Labelled
    squares: Sequence[Pixels]
    seed: int
    budget: Budget
    checkpoint: Path | None
    identity: Mapping[str, Any]


class Taught:
    """What the chain gives: a fused detector, and what it sees of pictures.

    Attributes:
        fused: the fused detector, frozen.
        features: the diffusion model's features.
        codec: compresses them; frozen.
        entries: the repository of the training pictures.
        config: settings of the diffusion side.
        trainings: how each training went, by name.

    """

    def __init__(
        self,
        fused: Fused,
        features: Features,
        codec: Codec,
        entries: Entries,
        config: DiffusionConfig,
        trainings: Mapping[str, Training],
    ) -> None:
        self.fused, self.features, self.codec, self.entries = fused, features, codec, entries
        self.config, self.trainings = config, dict(trainings)

    def guide(self, detector: Detector, seed: int) -> Distillation:
        """Let the light detector begin with neck and head of the fused one, if so set, and give what teaches it."""
        config = self.config.distillation
        if config.inherit:
            detector.neck.load_state_dict(self.fused.neck.state_dict())
            detector.head.load_state_dict(self.fused.head.state_dict())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            guide = Distillation(detector.head.logits.in_channels, self._pyramid, config)
        return guide.to(self.features.noise.device)

    def identity(self, beside: Mapping[str, Any]) -> dict[str, Any]:
        """What the training of the light detector depends on, `beside` included, as JSON values."""
        distillation = self.config.distillation.model_dump(mode="json")
        taught = {"fused_detector": weights_digest(self.fused), "repository": self.entries.fingerprint}
        return {**beside, "distillation": distillation, **taught}

    def _pyramid(self, batch: Batch, pixels: Tensor) -> Sequence[Tensor]:
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=pixels.device.type == "cuda"):
            maps = self.entries.maps(batch.rows, pixels.device)
            refined: list[Tensor] = self.fused.fusion(self.fused.pyramid(pixels), maps, batch.changes)
        return refined

    @torch.no_grad()
    def live(self, pictures: Tensor) -> list[Tensor]:
        """Features of pictures UINT8 [B, S, S, 3] that have no entry, made as an entry would have made them."""
        return self.codec.decode(self.codec.encode(self.features(pictures)))

    def facts(self) -> dict[str, Any]:
        """Repository and trainings, as JSON values."""
        return {
            "repository": self.entries.facts.model_dump(mode="json"),
            "trainings": {
                name: {"steps": each.steps, "seconds": round(each.seconds, 1), "losses": list(each.losses)}
                for name, each in self.trainings.items()
            },
        }

    @property
    def sentence(self) -> str:
        """The same in words."""
        told = ", ".join(
            f"{name.replace('_', ' ')} {each.steps} steps" for name, each in self.trainings.items()
        )
        return f"{told}; feature repository: {self.entries.facts.sentence}"


def teach(config: D3NConfig, diffusion: DiffusionConfig, detector: Detector, material: Material) -> Taught:
    """Train everything that teaches the light detector, or go on with it.

    Args:
        config: settings of the detectors.
        diffusion: its diffusion side.
        detector: untrained detector, which becomes the fused one.
        material: what is learnt from.

    Raises:
        RecipeError: the settings do not fit the size, or would compress too little.
        ArtefactError: the checkpoint's folder holds the state of another training.
        DataError: a loss is not finite.

    """
    with tempfile.TemporaryDirectory() as temporary:
        return _teach(config, diffusion, detector, material, Path(temporary))


def _teach(
    config: D3NConfig, diffusion: DiffusionConfig, detector: Detector, material: Material, temporary: Path
) -> Taught:
    device, squares, seed = material.teacher.mean.device, material.squares, material.seed
    learnt = diffusion.unet.of_size(material.pictures.size)
    shapes = feature_shapes(learnt, len(diffusion.noise_levels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = (Codec(shapes) if diffusion.resvae is None else ResVAE(shapes, diffusion.resvae)).to(device)
        width = detector.head.logits.in_channels
        fusion = Fusion(width, [shape[0] for shape in shapes], learnt.side, diffusion.fusion)
    stages = _Stages(material)
    with stages.begun("diffusion_model") as options:
        model = train_ddpm(squares, learnt, seed=seed, device=device, **options)
    stages.ended("diffusion_model", model.training)
    features = Features(model, diffusion.noise_levels, diffusion.noise_seed)
    features.measure(squares)
    taken = diffusion.model_dump(mode="json", include={"noise_levels", "noise_seed"})
    origin = {**taken, "diffusion_model": weights_digest(model.network), "pictures": digest(squares)}
    if isinstance(codec, ResVAE) and diffusion.resvae is not None:
        with stages.begun("resvae") as options:
            training = train_resvae(
                codec, features, squares, diffusion.resvae, seed=seed, identity=origin, **options
            )
        stages.ended("resvae", training)
    origin |= {"codec": weights_digest(codec)}
    entries = Entries.filled(
        (temporary if stages.folder is None else stages.folder) / "repository",
        codec,
        features,
        squares,
        origin,
    )
    say(f"Feature repository: {entries.facts.sentence}.")
    fused = Fused(detector, fusion.to(device))
    with stages.begun("fused_detector") as options:
        told = options.pop("progress")
        training = train_detector(
            fused,
            material.teacher,
            material.pictures,
            config.training,
            seed=seed,
            refine=lambda batch, pyramid: fused.fusion(
                pyramid, entries.maps(batch.rows, device), batch.changes
            ),
            identity={
                **material.identity,
                "fusion": diffusion.fusion.model_dump(mode="json"),
                "repository": entries.fingerprint,
                "codec": origin["codec"],
            },
            progress=lambda done, _loss: told(done),
            **options,
        )
    stages.ended("fused_detector", training)
    return Taught(fused, features, codec, entries, diffusion, stages.trainings)


class _Stages:
    """Time, files and progress of one training after another.

    Attributes:
        folder: where their state is kept; None keeps none.
        trainings: how those that ended went, by name.

    """

    def __init__(self, material: Material) -> None:
        self._budget = material.budget
        self.folder = None if material.checkpoint is None else material.checkpoint / FOLDER
        self.trainings: dict[str, Training] = {}

    @contextmanager
    def begun(self, name: str) -> Iterator[dict[str, Any]]:
        """Give the options of a training: budget, checkpoint and progress."""
        with bar() as shown:
            task = shown.add_task(f"training d3n's {name.replace('_', ' ')}", total=1.0)
            yield {
                "budget": self._budget.share(),
                "checkpoint": None if self.folder is None else self.folder / f"{name}.safetensors",
                "progress": lambda done: shown.update(task, completed=done),
            }

    def ended(self, name: str, training: Training | None) -> None:
        """Take a training off the budget."""
        self._budget.spend(training)
        if training is not None:
            self.trainings[name] = training
