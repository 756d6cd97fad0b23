"""D3N as a part of a line: how the light detector is made, trained, saved and loaded."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flawline.artefact.manifest import PartFacts, TrainingFacts
from flawline.artefact.rules import write_tensors
from flawline.data.sample import GOOD, Sample
from flawline.data.squares import Squares
from flawline.detectors.d3n.config import D3NConfig
from flawline.detectors.d3n.learn import train_detector
from flawline.detectors.d3n.network import STRIDES, Detector
from flawline.detectors.d3n.nms import Select
from flawline.detectors.d3n.pictures import Labelled
from flawline.detectors.part import Context, Part, PartConfig
from flawline.errors import DataError, RecipeError
from flawline.progress import bar, say
from flawline.scoring.finding import Role
from flawline.scoring.settings import PartSettings
from flawline.synthesis import MethodConfig
from flawline.teachers import Teacher, default_layers
from flawline.teachers.sources import TEACHER_SOURCES

if TYPE_CHECKING:
    from flawline.detectors.d3n.diffusion.chain import Taught

FOUND = "DETECTIONS"
_QUARTERS = (2, 3, 4)
"""Of the depth of a teacher of four stages: strides 8, 16 and 32."""


class Boxes(nn.Module):
    """What is exported: prepared pixels to the boxes that stay; see Select."""

    def __init__(self, detector: Detector, select: Select) -> None:
        super().__init__()
        self.detector, self.select = detector, select

    def forward(self, pixels: Tensor, maps: list[Tensor]) -> Tensor:
        """FP32 [B, ROWS, 6]. The teacher's maps are not used: the detector has its own backbone, which learnt."""
        del maps
        boxes: Tensor = self.select(self.detector(pixels))
        return boxes


class D3NPart(Part):
    """See the package.

    Attributes:
        config: its settings.
        module: Boxes.
        diffusion: what taught it, on the device of the fitting; None without diffusion, and in a loaded line.

    """

    name = "d3n"
    Config: ClassVar[type[PartConfig]] = D3NConfig
    outputs = (FOUND,)
    gives: Mapping[Role, str] = {"boxes": FOUND}
    supervised = True

    config: D3NConfig
    diffusion: "Taught | None" = None

    def __init__(
        self,
        config: D3NConfig,
        maps: tuple[int, ...],
        module: Boxes,
        architecture: dict[str, Any],
        training: TrainingFacts | None,
    ) -> None:
        self.config, self.maps, self.module = config, maps, module
        self.architecture, self.training = architecture, training
        self.classes = tuple(architecture["classes"])
        self.precision = config.precision
        self.statements = {"Classes": ", ".join(self.classes)}
        if training is not None:
            squares = "windows" if architecture.get("windows") else "pictures"
            self.statements["Detector"] = (
                f"{training.steps} steps in {training.seconds:.0f} s on {architecture['pictures']} {squares} with "
                f"{architecture['boxes']} boxes; {'' if 'diffusion' in architecture else 'not '}taught by diffusion"
            )
        if "diffusion" in architecture:
            self.statements["Diffusion"] = architecture["diffusion"]["statement"]

    @classmethod
    def layers(cls, config: PartConfig, teacher: str) -> tuple[int, ...]:
        """See Part."""
        return config.layers or default_layers(teacher, _QUARTERS)

    @classmethod
    def trainings(cls, config: D3NConfig, synthesis: MethodConfig) -> int:
        """See Part."""
        del synthesis
        return 1 + (0 if config.diffusion is None else config.diffusion.trainings)

    @classmethod
    def fit(cls, config: D3NConfig, context: Context) -> Self:
        """See Part. It learns from the labelled defects, and from good pictures that they have no boxes."""
        labelled = [s for s in context.defects if s.boxes is not None or s.mask is not None]
        if not labelled:
            msg = (
                f"d3n learns from labelled defects, and {context.data} has none with boxes or masks among its "
                "training pictures; label some, or build another detector"
            )
            raise DataError(msg)
        if unlabelled := len(context.defects) - len(labelled):
            say(f"Defects without boxes or masks, from which d3n cannot learn: {unlabelled}.")
        names = class_names(labelled)
        samples = [*labelled, *context.normals.samples]
        squares = Squares(samples, context.size, context.normals.ignored, windows=context.windows)
        pictures = Labelled(samples, names, squares, seed=context.seed)

        def fresh() -> Detector:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(context.seed)
                return make(config, context.teacher, context.maps, len(names), context.size)

        detector, identity = fresh(), _identity(config, context, pictures)
        taught, guide = None, None
        if config.diffusion is not None:
            # diffusers takes seconds to import
            from flawline.detectors.d3n.diffusion.chain import Material, teach

            material = Material(
                teacher=context.teacher,
                pictures=pictures,
                squares=pictures.squares,
                seed=context.seed,
                budget=context.budget,
                checkpoint=context.checkpoint,
                identity=identity,
            )
            taught = teach(config, config.diffusion, fresh(), material)
            guide, identity = taught.guide(detector, context.seed), taught.identity(identity)
        with bar() as progress:
            task = progress.add_task(f"training {cls.name}", total=1.0)
            training = train_detector(
                detector,
                context.teacher,
                pictures,
                config.training,
                seed=context.seed,
                guide=guide,
                budget=context.budget.share(),
                checkpoint=None if context.checkpoint is None else context.checkpoint / "d3n.safetensors",
                identity=identity,
                progress=lambda done, _loss: progress.update(task, completed=done),
            )
        context.budget.spend(training)
        facts = TrainingFacts(steps=training.steps, seconds=training.seconds, losses=training.losses)
        architecture = {
            "source": context.teacher.source_name,
            "backbone": detector.body.architecture,
            "chosen": list(context.maps),
            "classes": list(names),
            "size": context.size,
            "pictures": len(pictures),
            "windows": context.windows is not None,
            "boxes": sum(map(len, pictures.labels)),
        }
        if taught is not None:
            architecture["diffusion"] = {**taught.facts(), "statement": taught.sentence}
        module = Boxes(detector, Select(context.size, config.overlap))
        part = cls(config, context.maps, module, architecture, facts)
        part.labelled_defects, part.diffusion = len(labelled), taught
        return part

    def settings(self) -> PartSettings:
        """See Part."""
        return PartSettings(name=self.name, gives=self.given, weight=self.config.weight)

    def save(self, folder: Path) -> None:
        """See Part."""
        tensors = {
            name: value.detach().cpu().contiguous().numpy()
            for name, value in self.module.state_dict().items()
        }
        write_tensors(folder / "d3n.safetensors", tensors)

    @classmethod
    def load(cls, config: D3NConfig, facts: PartFacts, folder: Path) -> Self:
        """See Part."""
        made = facts.architecture
        with torch.random.fork_rng(devices=[]):
            body = TEACHER_SOURCES.get(made["source"]).rebuild(made["backbone"])
            detector = Detector(body, made["chosen"], len(made["classes"]), config.width)
        module = Boxes(detector, Select(made["size"], config.overlap))
        module.load_state_dict(load_file(folder / "d3n.safetensors"))
        module.eval().requires_grad_(requires_grad=False)
        return cls(config, facts.maps, module, made, facts.training)


def _identity(config: D3NConfig, context: Context, pictures: Labelled) -> dict[str, Any]:
    """What the training of a detector depends on beside its own settings and seed, as JSON values."""
    return {
        **context.identity,
        "width": config.width,
        "layers": list(context.teacher.layers),
        "pictures": pictures.fingerprint(),
    }


def make(config: D3NConfig, teacher: Teacher, maps: Sequence[int], classes: int, size: int) -> Detector:
    """Make an untrained detector, on the teacher's device, whose backbone begins as a copy of the teacher's.

    Args:
        config: settings.
        teacher: its backbone is copied.
        maps: positions of the maps that it takes, finest first.
        classes: number of classes.
        size: side of the square in pixels.

    Raises:
        RecipeError: the maps do not have the strides of the pyramid.

    """
    device = teacher.mean.device
    with torch.inference_mode():
        given = teacher.backbone(torch.zeros((1, 3, size, size), device=device))
    strides = [size / given[position].shape[2] for position in maps]
    if strides != [float(stride) for stride in STRIDES[: len(strides)]]:
        told = ", ".join(f"{stride:g}" for stride in strides)
        msg = (
            f"d3n takes maps of {', '.join(map(str, STRIDES))} pixels to a cell from its teacher, and "
            f"{teacher.source} gives {told} at a size of {size}; "
            "give another teacher, other d3n.layers, or a size that 32 divides"
        )
        raise RecipeError(msg)
    return Detector(copy.deepcopy(teacher.backbone), maps, classes, config.width).to(device)


def class_names(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Names of all classes of labelled pictures, in the order of the alphabet, which is that of their numbers."""
    boxed = {box.name for sample in samples for box in sample.boxes or ()}
    masked = {sample.defect_class for sample in samples if sample.boxes is None and sample.is_defect}
    return tuple(sorted((boxed | masked) - {GOOD}))
