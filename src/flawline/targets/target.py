"""What a target is: it compiles a line's graph, and runs what it compiled."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from flawline.errors import ArtefactError
from flawline.scoring.picture import Values

if TYPE_CHECKING:  # Triton's Python stages load graphs where torch is not installed
    from torch import nn

Outputs = dict[str, NDArray[np.generic]]


class Graph(Protocol):
    """A compiled graph, loaded."""

    def run(self, pictures: Values) -> Outputs:
        """Run one batch.

        Args:
            pictures: UINT8 or UINT16 [B, S, S, 3], model squares, for any B.

        Returns:
            The graph's outputs by name, in the graph's order; the first axis of each is B.

        """
        ...


@dataclass(frozen=True)
class Native:
    """How a server with Triton's own backends runs the graph, without Flawline's Python stage.

    Attributes:
        backend: Triton's backend.
        file: the file of the version folder that the backend loads.
        kind: where Triton places the instance; KIND_AUTO takes a GPU where there is one.
        platform: Triton's platform, for a backend that offers several; empty leaves it to the backend.

    """

    backend: str
    file: str
    kind: Literal["KIND_AUTO", "KIND_CPU", "KIND_GPU"]
    platform: str = ""


NATIVE_ONNX = Native(backend="onnxruntime", file="model.onnx", kind="KIND_AUTO")
"""The checked ONNX file, which every artefact holds, by Triton's ONNX Runtime backend."""


class Target(Protocol):
    """Compiles a line's graph into files of its own, and loads them again, perhaps in another process.

    Constructing a target and reading its attributes must ask for no package beyond Flawline's own.

    Attributes:
        name: the name under which it is registered.
        native: how a server with Triton's own backends runs a line of this target.

    """

    @property
    def name(self) -> str:
        """See the class."""
        ...

    @property
    def native(self) -> Native:
        """See the class."""
        ...

    def missing(self) -> str | None:
        """Say in one sentence what this machine lacks to compile and to run, and the cure; None if nothing."""
        ...

    def compile(self, module: "nn.Module", onnx: Path, folder: Path) -> None:
        """Compile a line's graph.

        Args:
            module: the graph that was exported, on the CPU in evaluation mode: [B, S, S, 3] in, a tuple of
                tensors out.
            onnx: the same graph as a checked ONNX file without side files; its input is called PICTURE.
            folder: an existing folder that takes all files that `load` needs. `onnx` usually lies in it already
                and must stay as it is.

        """
        ...

    def load(self, folder: Path, threads: int) -> Graph:
        """Load what `compile` wrote. This runs in Triton's Python stages too, where torch is not installed.

        Args:
            folder: the folder that was given to `compile`, or a copy of it.
            threads: number of CPU threads that the graph may use.

        Raises:
            ArtefactError: a file is missing or damaged.

        """
        ...


def missing_package(target: str, package: str) -> str | None:
    """Say in one sentence that a target's Python package is not installed, and the cure; None if it is."""
    if find_spec(package) is not None:
        return None
    return (
        f"target '{target}' needs the package {package}, which is not installed here: pip install {package}"
    )


def unreadable(path: Path, error: Exception) -> ArtefactError:
    """Make the error for a compiled graph that its runtime refuses to load."""
    return ArtefactError(f"{path}: the graph cannot be loaded ({error}); build the line again or roll back")
