"""What learns from synthetic defects has in common as a part of a line, and what students have beside it."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from flawline.artefact.manifest import PartFacts, TrainingFacts
from flawline.artefact.rules import write_tensors
from flawline.data.sample import Sample
from flawline.data.squares import Square, fingerprint
from flawline.detectors.part import Context, Part, PartConfig
from flawline.detectors.students.blocks import Distance, Levelled
from flawline.detectors.students.config import StudentConfig
from flawline.detectors.students.crops import Crops
from flawline.detectors.students.levels import levelled
from flawline.detectors.students.train import train_student
from flawline.errors import DataError
from flawline.progress import bar, track
from flawline.scoring.finding import Role
from flawline.scoring.picture import Pixels
from flawline.scoring.settings import PartSettings
from flawline.synthesis import MethodConfig
from flawline.teachers import Teacher, default_layers, stacked
from flawline.training import Training

DISCREPANCY = "DISCREPANCY"
BATCH = 8
MEASURED = 16
"""Normals on which the variance of the maps is measured."""
MAX_PICTURES = 1000
"""More add little to a training of some thousand steps, and would fill the memory."""
_QUARTERS = (1, 2)
"""Of the depth: a student compares finer maps than the banks, which see what lies around a patch already."""

Shape = tuple[int, int, int]
"""Channels, rows and columns of a teacher's map."""


class LearntPart(Part):
    """A network that is trained on good pictures and synthetic defects, and gives a map.

    Attributes:
        heading: what a report calls the network.
        config: its settings, which have `training`, `synthesis`, `top_share` and `sigma` as StudentConfig has them.
        module: Levelled, the network with its levels on normal pictures.

    """

    heading: ClassVar[str]

    config: Any

    def __init__(
        self,
        config: Any,  # noqa: ANN401 - the part's own Config
        maps: tuple[int, ...],
        module: Levelled,
        architecture: dict[str, Any],
        training: TrainingFacts | None,
    ) -> None:
        self.config, self.maps, self.module = config, maps, module
        self.architecture, self.training = architecture, training
        self.statements = {}
        if training is not None:
            told = f"{self.name}, {training.steps} steps in {training.seconds:.0f} s"
            self.statements[self.heading] = told

    @classmethod
    @abstractmethod
    def make(
        cls,
        config: Any,  # noqa: ANN401 - the part's own Config
        teacher: Teacher,
        maps: Sequence[int],
        normals: Tensor,
        *,
        seed: int,
    ) -> tuple[nn.Module, dict[str, Any]]:
        """Make an untrained network on the teacher's device.

        Args:
            config: settings.
            teacher: frozen teacher.
            maps: positions of the maps that the part takes, finest first.
            normals: some squares of the line, UINT8 [B, S, S, 3].
            seed: seed of its first weights.

        Returns:
            The network, which turns prepared pixels and those maps into FP32 [B, h, w] >= 0, and its architecture.

        """

    @classmethod
    @abstractmethod
    def learn(
        cls,
        network: nn.Module,
        maps_of: "MapsOf",
        crops: Crops,
        config: Any,  # noqa: ANN401 - the part's own Config
        **options: Any,  # noqa: ANN401 - those of train_student
    ) -> Training:
        """Train the network in place; see train_student, whose options these are."""

    @classmethod
    def trainings(cls, config: Any, synthesis: MethodConfig) -> int:  # noqa: ANN401 - the part's own Config
        """See Part."""
        return 1 + (config.synthesis or synthesis).trainings

    @classmethod
    def fit(cls, config: Any, context: Context) -> Self:  # noqa: ANN401 - the part's own Config
        """See Part. At most MAX_PICTURES of the normals, or of their windows, are used, drawn by chance."""
        squares, _ = drawn(context)
        crops = _crops(cls.name, config, context, squares)
        some = stacked([square.values for square in squares[:MEASURED]], context.teacher.bits)
        teacher, maps_of = context.teacher, MapsOf(context.teacher, context.maps)
        network, architecture = cls.make(config, teacher, context.maps, some, seed=context.seed)
        with bar() as progress:
            task = progress.add_task(f"training {cls.name}", total=1.0)
            training = cls.learn(
                network,
                maps_of,
                crops,
                config,
                budget=context.budget.share(),
                checkpoint=None
                if context.checkpoint is None
                else context.checkpoint / f"{cls.name}.safetensors",
                identity={
                    **context.identity,
                    "config": config.model_dump(
                        mode="json", exclude={"synthesis", "weight", "top_share", "sigma"}
                    ),
                    "synthesis": (config.synthesis or context.synthesis).model_dump(mode="json"),
                    "pictures": fingerprint(squares),
                },
                progress=lambda done, _loss: progress.update(task, completed=done),
            )
        context.budget.spend(training)
        starts = track(range(0, len(squares), BATCH), f"measuring {cls.name} on normals")
        batches = (_batch(squares[start : start + BATCH]) for start in starts)
        module = levelled(network, teacher, maps_of, batches, context.normals.ignored)
        architecture["grid"] = list(module.mean.shape)
        facts = TrainingFacts(steps=training.steps, seconds=training.seconds, losses=training.losses)
        part = cls(config, context.maps, module, architecture, facts)
        part.labelled_defects = context.labels_of(config.synthesis)
        return part

    def settings(self) -> PartSettings:
        """See Part."""
        return PartSettings(
            name=self.name,
            gives=self.given,
            sigma=self.config.sigma,
            top_share=self.config.top_share,
            weight=self.config.weight,
        )

    def save(self, folder: Path) -> None:
        """See Part."""
        tensors = {
            name: value.detach().cpu().contiguous().numpy()
            for name, value in self.module.state_dict().items()
        }
        write_tensors(folder / f"{self.name}.safetensors", tensors)

    @classmethod
    def loaded(cls, config: Any, facts: PartFacts, module: Levelled, folder: Path) -> Self:  # noqa: ANN401
        """Fill a module of the right shapes with what `save` wrote."""
        module.load_state_dict(load_file(folder / f"{cls.name}.safetensors"))
        module.eval().requires_grad_(requires_grad=False)
        return cls(config, facts.maps, module, facts.architecture, facts.training)

    @classmethod
    def examples(
        cls,
        config: Any,  # noqa: ANN401 - the part's own Config
        context: Context,
    ) -> Iterator[tuple[Pixels, NDArray[np.bool_], str]]:
        """See Part: the corrupted crops of the training, step after step."""
        squares, samples = drawn(context)
        crops = _crops(cls.name, config, context, squares)
        for step in range(config.training.steps):
            for row, _, corrupted, mask in crops.pairs(step, config.training.pairs):
                yield corrupted, mask, samples[row].title


class StudentPart(LearntPart):
    """A student that is trained to agree with the teacher on good pictures; where it does not is the finding."""

    outputs = (DISCREPANCY,)
    gives: Mapping[Role, str] = {"map": DISCREPANCY}
    heading = "Student"

    config: StudentConfig

    @classmethod
    @abstractmethod
    def network(cls, config: Any, shapes: Sequence[Shape], distance: Distance) -> nn.Module:  # noqa: ANN401
        """Make an untrained student for teacher maps of these shapes, finest first."""

    @classmethod
    def layers(cls, config: PartConfig, teacher: str) -> tuple[int, ...]:
        """See Part."""
        return config.layers or default_layers(teacher, _QUARTERS)

    @classmethod
    def make(
        cls, config: StudentConfig, teacher: Teacher, maps: Sequence[int], normals: Tensor, *, seed: int
    ) -> tuple[nn.Module, dict[str, Any]]:
        """See LearntPart. The variances of the maps are measured on `normals`."""
        with torch.inference_mode():
            given = teacher(normals.to(teacher.mean.device))
        chosen = [given[position].float() for position in maps]
        variances = torch.stack([part.var(dim=(0, 2, 3)).sum() for part in chosen])
        lengths = torch.stack([part.square().sum(dim=1).mean().sqrt() for part in chosen])
        distance = Distance(
            config.distance, variances.clamp(min=1e-6).clone(), lengths.clamp(min=1e-6).clone()
        )
        shapes = [(part.shape[1], part.shape[2], part.shape[3]) for part in chosen]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student = cls.network(config, shapes, distance).to(teacher.mean.device)
        return student, {"maps": [list(shape) for shape in shapes]}

    @classmethod
    def learn(
        cls,
        network: nn.Module,
        maps_of: "MapsOf",
        crops: Crops,
        config: StudentConfig,
        **options: Any,  # noqa: ANN401 - those of train_student
    ) -> Training:
        """See LearntPart."""
        return train_student(network, maps_of, crops, config.training, **options)

    @classmethod
    def load(cls, config: StudentConfig, facts: PartFacts, folder: Path) -> Self:
        """See Part."""
        shapes = [(int(c), int(h), int(w)) for c, h, w in facts.architecture["maps"]]
        blank = torch.zeros(len(shapes))
        student = cls.network(config, shapes, Distance(config.distance, blank, blank.clone()))
        levels = torch.zeros(facts.architecture["grid"])
        return cls.loaded(config, facts, Levelled(student, levels, levels.clone()), folder)


class MapsOf(nn.Module):
    """A teacher's maps reduced to those that a student compares."""

    def __init__(self, teacher: Teacher, maps: Sequence[int]) -> None:
        super().__init__()
        self.teacher, self.positions = teacher, tuple(maps)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Turn prepared pixels FP32 [B, 3, S, S] into one FP32 [B, C_k, H_k, W_k] per chosen map."""
        maps = self.teacher.maps(pixels)
        return [maps[position] for position in self.positions]


def drawn(context: Context) -> tuple[list[Square], list[Sample]]:
    """At most MAX_PICTURES of the normals, or of their windows, in the model square and as they lie on disk."""
    squares, samples = context.normals.pieces(MAX_PICTURES, context.seed)
    _check_sides(squares, context.size)
    return squares, samples


def _check_sides(squares: Sequence[Square], size: int) -> None:
    """Refuse a line whose largest picture would be enlarged more than twice: there is nothing finer to learn."""
    widest = max((square.geometry for square in squares), key=lambda each: max(each.width, each.height))
    if max(widest.width, widest.height) * 2 < size:
        msg = (
            f"the largest normal picture has {widest.width}x{widest.height} pixels, less than half of the model's "
            f"square of {size}; give larger pictures or a smaller --size"
        )
        raise DataError(msg)


def _crops(
    name: str,
    config: Any,  # noqa: ANN401 - the part's own Config
    context: Context,
    squares: Sequence[Square],
) -> Crops:
    """The pairs that a network learns from."""
    pictures, extents = [square.pixels for square in squares], [square.extent for square in squares]
    corrupt = context.synthesizer(
        config.synthesis,
        pictures,
        lambda: [p[:height, :width] for p, (height, width) in zip(pictures, extents, strict=True)],
        name,
    )
    return Crops(
        pictures,
        extents,
        corrupt,
        context.teacher,
        crop=config.training.crop,
        seed=context.seed,
        vary=config.training.vary,
        hidden=None if context.normals.ignored is None else context.normals.ignored.square,
        fill="reflection" if context.windows is None else context.windows.fill,
    )


def _batch(squares: Sequence[Square]) -> tuple[Tensor, list[tuple[int, int]]]:
    return torch.from_numpy(np.stack([square.values for square in squares])), [
        square.extent for square in squares
    ]
