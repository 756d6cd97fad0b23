"""A part: what one detector contributes to a line. Every detector of Flawline, and of other packages, is one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from flawline.artefact.manifest import PartFacts, TensorFacts, TrainingFacts
from flawline.data.sample import Sample, masks_of
from flawline.data.squares import Squares
from flawline.errors import RecipeError
from flawline.registry import Registry
from flawline.scoring.finding import ROLES, Finding, Role
from flawline.scoring.ignored import Ignored
from flawline.scoring.picture import Geometry, Pixels
from flawline.scoring.settings import MOST_WEIGHT, PartSettings
from flawline.scoring.windows import WindowSettings
from flawline.synthesis import Material, MethodConfig, Sources, Synthesizer
from flawline.teachers import Teacher, default_layers
from flawline.training import Budget

MAX_PARTS = 3
"""Parts of a line for which the shared stage `postprocess` has inputs."""


class PartConfig(BaseModel):
    """Settings that every part has; its section of a recipe.

    Attributes:
        layers: stages of the teacher that the part takes, from 1, ascending; null takes the part's own choice.
        weight: weight of the part where several are fused, relative to the others.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layers: tuple[Annotated[int, Field(ge=1, le=100)], ...] | None = None
    weight: float = Field(1.0, ge=0, le=MOST_WEIGHT)


@dataclass(frozen=True)
class Context:
    """What a part may learn from, and how.

    Attributes:
        teacher: frozen teacher, on the device that does the work.
        maps: positions among the teacher's maps of those that the part takes.
        normals: good pictures that the part may learn from; what the line ignores is filled in them, and left out
            of their geometries.
        defects: labelled defect pictures that it may learn from.
        data: name of the data set, for messages.
        size: side of the model square, or of each window, in pixels.
        seed: seed of every random choice.
        synthesis: method that makes synthetic defects where the part's settings name none.
        budget: time for what the part trains: ask for a share before each training, and spend it after.
        checkpoint: folder for the state of trainings; None keeps none.
        identity: what made teacher and squares, as JSON values, to tell checkpoints apart.
        windows: how pictures are cut into windows of `size`; None brings each whole into one square.

    """

    teacher: Teacher
    maps: tuple[int, ...]
    normals: Squares
    defects: tuple[Sample, ...]
    data: str
    size: int
    seed: int
    synthesis: MethodConfig
    checkpoint: Path | None
    identity: Mapping[str, Any]
    budget: Budget
    windows: WindowSettings | None = None

    def synthesizer(
        self,
        own: MethodConfig | None,
        sources: Sources,
        learned: Callable[[], Sequence[Pixels]],
        name: str,
    ) -> Synthesizer:
        """Make what puts synthetic defects on pictures, training or loading what the method needs.

        Args:
            own: method that the part's settings name; None takes that of the recipe.
            sources: normal pictures to take material from.
            learned: function that reads the normal pictures a diffusion model learns, UINT8 [H, W, 3] each.
            name: name of the part, under which the state of trainings is kept.

        Raises:
            FlawlineError: what the method needs cannot be had.

        """
        material = Material(
            sources=sources,
            learned=learned,
            masks=lambda: masks_of(self.defects),
            seed=self.seed,
            device=str(self.teacher.mean.device),
            checkpoint=None if self.checkpoint is None else self.checkpoint / f"{name}-synthesis",
            budget=self.budget,
        )
        return (own or self.synthesis).prepare(material)

    def labels_of(self, own: MethodConfig | None) -> int:
        """Count the labelled defects whose masks a synthesis uses; see `synthesizer`."""
        if not (own or self.synthesis).labelled:
            return 0
        return sum(sample.mask is not None for sample in self.defects)


class Part(ABC):
    """One detector's part of one line, fitted.

    A subclass sets the class attributes, fits, saves and loads itself. Its network is exported with the teacher
    into the line's graph, whose outputs carry the names in `outputs`. Where these are not yet the finding, `stage`
    names the shared Triton stage that makes it of them.

    Attributes:
        name: name of the detector.
        Config: settings; the class of the recipe's section of that name.
        outputs: names of the graph outputs that the part adds, upper case.
        gives: tensor that holds each role of the finding; settings may add roles to those of the class.
        stage: shared Triton stage between graph and finding; None where the graph's outputs are the finding.
        crossable: whether it can be fitted without some of its normals in a moment; see `cross`.
        takes_marks: whether it takes the marks of an adapted teacher beside its layers.
        supervised: whether it learns from labelled defects, and can do without good pictures.
        config: its settings.
        maps: positions among the teacher's maps of those that it takes.
        module: network from prepared pixels FP32 [B, 3, S, S] and these maps to the tensors of `outputs`.
        architecture: what `load` needs to build the network again, as JSON values.
        statements: what a report says of it, in words, by heading.
        training: how it was trained; None for a part without training.
        labelled_defects: number of labelled defect pictures that it learnt from.
        classes: names of the classes of its boxes, in the order of their numbers; none without classes.
        precision: share of its boxes that must be right on held-out labelled pictures where there are no good ones.

    """

    name: ClassVar[str]
    Config: ClassVar[type[PartConfig]] = PartConfig
    outputs: ClassVar[tuple[str, ...]]
    gives: Mapping[Role, str]
    stage: ClassVar[str | None] = None
    crossable: ClassVar[bool] = False
    takes_marks: ClassVar[bool] = False
    supervised: ClassVar[bool] = False

    config: PartConfig
    maps: tuple[int, ...]
    module: nn.Module
    architecture: dict[str, Any]
    statements: dict[str, str]
    training: TrainingFacts | None = None
    labelled_defects: int = 0
    classes: tuple[str, ...] = ()
    precision: float = 0.8

    @classmethod
    def layers(cls, config: PartConfig, teacher: str) -> tuple[int, ...]:
        """Stages of the teacher that the part takes, ascending; by default those at two and three quarters."""
        return config.layers or default_layers(teacher)

    @classmethod
    def trainings(cls, config: Any, synthesis: MethodConfig) -> int:  # noqa: ANN401 - the part's own Config
        """Count what `fit` trains, so that a budget of time can be shared; `synthesis` is the recipe's own."""
        del config, synthesis
        return 0

    @classmethod
    @abstractmethod
    def fit(cls, config: Any, context: Context) -> Self:  # noqa: ANN401 - the part's own Config
        """Learn from the normal pictures of a line, and from its labelled defects if the settings say so.

        Raises:
            FlawlineError: the pictures or settings cannot be used; one sentence says why.

        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything that was learnt into the folder of an artefact, as safetensors."""

    @classmethod
    @abstractmethod
    def load(cls, config: Any, facts: PartFacts, folder: Path) -> Self:  # noqa: ANN401 - see fit
        """Read what `save` wrote, on the CPU; the files were checked."""

    def find(self, outputs: Mapping[str, Tensor], geometry: Geometry) -> Finding:
        """Take the graph's outputs for one picture, in eager torch: the reference of every served finding.

        A part with a `stage` does what the stage does.
        """
        del geometry
        arrays = {name: outputs[name].float().cpu().numpy() for name in self.gives.values()}
        return Finding.of(arrays, self.gives)

    @abstractmethod
    def settings(self) -> PartSettings:
        """Constants of its scoring, before its levels on normal pictures are known."""

    def cross(self, folds: Sequence[NDArray[np.int64]]) -> list[Finding]:
        """Find on every normal it learnt from, fitted without the fold of that normal; fold by fold."""
        msg = f"{self.name} cannot be fitted by folds"
        raise NotImplementedError(msg)

    def settle(self) -> None:  # noqa: B027 - most parts hold nothing
        """Drop what only fitting needed."""

    @classmethod
    def examples(cls, config: Any, context: Context) -> Iterator[tuple[Pixels, NDArray[np.bool_], str]]:  # noqa: ANN401
        """Synthetic defects exactly as the part learns from them: picture, mask, and the normal picture's name."""
        msg = f"{cls.name} learns from no synthetic defects"
        raise RecipeError(msg)

    def taught(
        self,
        teacher: Teacher,
        normals: Sequence[Sample],
        defects: Sequence[Sample],
        *,
        size: int,
        ignored: Ignored | None = None,
        windows: WindowSettings | None = None,
    ) -> Self | None:
        """Return the part with what more pictures add, without fitting; None where that cannot be done.

        Args:
            teacher: teacher of the line.
            normals: good pictures.
            defects: defect pictures with masks.
            size: side of the model square, or of each window, in pixels.
            ignored: regions of the pictures that are not learnt.
            windows: how pictures are cut into windows; None brings each whole into one square.

        """
        del teacher, normals, defects, size, ignored, windows
        return None

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        self.module.to(device)

    @property
    def given(self) -> tuple[Role, ...]:
        """What its findings hold, in the order of ROLES."""
        return tuple(role for role in ROLES if role in self.gives)

    def facts(self, shapes: Mapping[str, tuple[int, ...]]) -> PartFacts:
        """Everything that its artefact says of it; `shapes` are those of the graph's outputs without the batch."""
        return PartFacts(
            name=self.name,
            outputs=tuple(TensorFacts(name=name, dims=shapes[name]) for name in self.outputs),
            stage=self.stage,
            gives=dict(self.gives),
            maps=self.maps,
            architecture=self.architecture,
            statements=self.statements,
            training=self.training,
            classes=self.classes,
        )


PARTS: Registry[type[Part]] = Registry(
    "flawline.parts",
    "detector",
    {
        "exdd": "flawline.detectors.exdd.part:ExDDPart",
        "sacd": "flawline.detectors.sacd.part:SACDPart",
        "ddpm_ast": "flawline.detectors.ddpm_ast.part:DDPMASTPart",
        "d3n": "flawline.detectors.d3n.part:D3NPart",
        "segmenter": "flawline.detectors.segmenter.part:SegmenterPart",
    },
)
"""Every detector by name."""


def parse_detector(text: str) -> tuple[type[Part], ...]:
    """Split `sacd+exdd` into the parts of a line, in that order.

    Raises:
        RecipeError: an unknown name, the same twice, too many, or two that give tensors of the same name.

    """
    names = [name.strip() for name in text.split("+")]
    if len(set(names)) < len(names) or len(names) > MAX_PARTS:
        msg = f"detector '{text}': name each of at most {MAX_PARTS} detectors once"
        raise RecipeError(msg)
    parts = tuple(PARTS.get(name) for name in names)
    givers: dict[str, str] = {}
    for part in parts:
        for tensor in (*part.outputs, *part.gives.values()):
            if givers.setdefault(tensor, part.name) != part.name:
                msg = f"detectors {givers[tensor]} and {part.name} do not go together: both give {tensor}"
                raise RecipeError(msg)
    return parts
