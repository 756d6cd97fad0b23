"""A line on a real server without a build: the frozen artefact, a student beside banks, behind all three doors."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import InferInput

from flawline.artefact.manifest import FORMAT, Manifest, read
from flawline.artefact.served import ServedLine
from flawline.repository import names, publish

HOME = Path(__file__).parents[1] / "tests" / "frozen" / f"format_{FORMAT}"
LINE = "frozen"
DOORS = (LINE, names.pixels(LINE), names.fused(LINE))


def publish_frozen(repository: Path) -> Manifest:
    """Write the line and the shared stages into a repository."""
    folder = repository / names.discrepancy(LINE) / "1"
    shutil.copytree(HOME / "artefact", folder)
    publish.place_shared_stages(repository)
    manifest = read(folder)
    publish.write_models(repository, manifest, folder)
    return manifest


def pictures() -> list[NDArray[np.uint8]]:
    """The pictures that it keeps, UINT8 [H, W, 3]."""
    return [np.asarray(Image.open(path)) for path in sorted((HOME / "artefact" / "reference").iterdir())]


def good_tensors() -> dict[str, NDArray[Any]]:
    """What travels between the stages for one picture, by tensor name."""
    outputs = ServedLine(HOME / "artefact", threads=1).graph.run(pictures()[0][None])
    height, width = pictures()[0].shape[:2]
    return {
        **outputs,
        "GEOMETRY": np.array([[width, height]], np.int32),
        "MAP_1": outputs["DISCREPANCY"],
        "MAP_2": np.ones((1, 16, 16), np.float32),
        "SCORE_2": np.ones((1, 1), np.float32),
    }


DTYPES = {"float32": "FP32", "int32": "INT32", "uint8": "UINT8"}
TAKES = {
    "memory_bank_negative": ("EMBEDDING", "ARTEFACT_KEY"),
    "memory_bank_positive": ("EMBEDDING", "ARTEFACT_KEY"),
    "ratio_scoring": ("EMBEDDING", "ARTEFACT_KEY", "GEOMETRY"),
    "postprocess": ("ARTEFACT_KEY", "GEOMETRY", "MAP_1", "MAP_2", "SCORE_2"),
}
"""Inner stages behind the graph, and the tensors that this line sends them."""

Sent = list[InferInput]


def tensor(name: str, values: NDArray[Any], dtype: str) -> InferInput:
    """An input, batch first."""
    return InferInput(name, list(values.shape), dtype).set_data_from_numpy(values)


def image(*contents: bytes) -> InferInput:
    """Encoded pictures as tensor IMAGE."""
    return tensor("IMAGE", np.array([[content] for content in contents], dtype=np.object_), "BYTES")


def pixels(*arrays: NDArray[np.uint8]) -> InferInput:
    """Raw pictures of one shape as tensor PIXELS."""
    return tensor("PIXELS", np.stack(arrays), "UINT8")


def to_stage(stage: str, good: dict[str, NDArray[Any]], **changes: NDArray[Any] | None) -> Sent:
    """A good request to an inner stage but for `changes`, where None leaves a tensor out."""
    values = {**{name: good[name] for name in TAKES[stage]}, **changes}
    return [tensor(name, each, DTYPES[str(each.dtype)]) for name, each in values.items() if each is not None]


def png(picture: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """Encode UINT8 [H, W, 3]."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format=kind)
    return content.getvalue()
