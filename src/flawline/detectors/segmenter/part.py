"""`segmenter` as a part of a line."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from flawline.artefact.manifest import PartFacts
from flawline.detectors.part import PartConfig
from flawline.detectors.segmenter.config import SegmenterConfig
from flawline.detectors.segmenter.model import Segmenter
from flawline.detectors.segmenter.tune import tune
from flawline.detectors.students.blocks import Levelled
from flawline.detectors.students.crops import Crops
from flawline.detectors.students.part import LearntPart, MapsOf
from flawline.scoring.finding import Role
from flawline.teachers import Teacher, default_layers
from flawline.teachers.sources import TEACHER_SOURCES
from flawline.training import Training

MARKS = "MARKS"
_QUARTERS = (1, 2, 3, 4)


class SegmenterPart(LearntPart):
    """See flawline.detectors.segmenter.model."""

    name = "segmenter"
    outputs = (MARKS,)
    gives: Mapping[Role, str] = {"map": MARKS}
    heading = "Segmenter"
    Config: ClassVar[type[PartConfig]] = SegmenterConfig

    config: SegmenterConfig

    @classmethod
    def layers(cls, config: PartConfig, teacher: str) -> tuple[int, ...]:
        """See Part."""
        return config.layers or default_layers(teacher, _QUARTERS)

    @classmethod
    def make(
        cls, config: SegmenterConfig, teacher: Teacher, maps: Sequence[int], normals: Tensor, *, seed: int
    ) -> tuple[nn.Module, dict[str, Any]]:
        """See LearntPart. The backbone begins as a copy of the teacher's; `normals` are not looked at."""
        del normals
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Segmenter(copy.deepcopy(teacher.backbone), maps, config.width)
        architecture = {
            "source": teacher.source_name,
            "backbone": network.body.architecture,
            "chosen": list(maps),
        }
        return network.to(teacher.mean.device), architecture

    @classmethod
    def learn(
        cls,
        network: nn.Module,
        maps_of: MapsOf,
        crops: Crops,
        config: SegmenterConfig,
        **options: Any,  # noqa: ANN401 - those of tune
    ) -> Training:
        """See LearntPart."""
        del maps_of
        assert isinstance(network, Segmenter)  # noqa: S101 - `make` made it
        return tune(network, crops, config.training, **options)

    @classmethod
    def load(cls, config: SegmenterConfig, facts: PartFacts, folder: Path) -> Self:
        """See Part."""
        made = facts.architecture
        with torch.random.fork_rng(devices=[]):
            body = TEACHER_SOURCES.get(made["source"]).rebuild(made["backbone"])
            network = Segmenter(body, made["chosen"], config.width)
        levels = torch.zeros(made["grid"])
        return cls.loaded(config, facts, Levelled(network, levels, levels.clone()), folder)
