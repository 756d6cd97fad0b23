"""A line on a real server without a build: the frozen artefact, a student beside banks, behind all three doors."""

import io
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from asking import image, pixels, tensor
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import InferInput

from flawline.artefact.manifest import FORMAT, Manifest, read
from flawline.artefact.served import ServedLine
from flawline.repository import names, publish

HOME = Path(__file__).parents[1] / "frozen" / f"format_{FORMAT}"
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


def announced_png(width: int, height: int) -> bytes:
    """A PNG file whose header says so many pixels, and which holds almost none."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(b"\0" * 5000), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


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
Bad = tuple[str, Sent, str]
"""A model, what is sent to it, and what must be in the sentence that refuses it."""


def to_stage(stage: str, good: dict[str, NDArray[Any]], **changes: NDArray[Any] | None) -> Sent:
    """A good request to an inner stage but for `changes`, where None leaves a tensor out."""
    values = {**{name: good[name] for name in TAKES[stage]}, **changes}
    return [tensor(name, each, DTYPES[str(each.dtype)]) for name, each in values.items() if each is not None]


def changed(values: NDArray[Any], value: float) -> NDArray[Any]:
    """The same with one element changed."""
    copy = values.copy()
    copy.flat[copy.size // 2] = value
    return copy


def png(picture: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format=kind)
    return content.getvalue()


def bad_to_stages(good: dict[str, NDArray[Any]]) -> list[Bad]:
    """What an inner stage gets that is open to everybody: zeros, no numbers, other shapes, other keys."""
    embedding, key = good["EMBEDDING"], good["ARTEFACT_KEY"]
    bad: list[Bad] = []
    for stage in TAKES:
        every = {name: np.zeros_like(good[name]) for name in TAKES[stage]}
        bad += [
            (stage, to_stage(stage, good, ARTEFACT_KEY=np.zeros_like(key)), "has key"),
            (stage, to_stage(stage, good, **every), "has key"),  # as perf_analyzer sends them
            (stage, twice(stage, good, ARTEFACT_KEY=np.concatenate([key, key + 1])), "several artefacts"),
        ]
    for stage in ("memory_bank_negative", "ratio_scoring"):
        bad += [
            (stage, to_stage(stage, good, EMBEDDING=changed(embedding, value)), "not finite")
            for value in (np.nan, np.inf, 1e30)
        ]
        narrow = np.ascontiguousarray(embedding[..., :5])
        bad.append((stage, to_stage(stage, good, EMBEDDING=narrow), "EMBEDDING has 5 dimensions"))
        bad.append((stage, to_stage(stage, good, EMBEDDING=embedding[:, :0]), "EMBEDDING has 0"))
    row = np.ascontiguousarray(embedding[:, :1])
    bad.append(("ratio_scoring", to_stage("ratio_scoring", good, EMBEDDING=row), "1x16 patches"))
    bad.append(
        ("memory_bank_positive", to_stage("memory_bank_positive", good), "bank_positive.safetensors: missing")
    )
    for stage in ("ratio_scoring", "postprocess"):
        for width, height in ((0, 0), (-128, -128), (1, 4), (2**31 - 1, 2**31 - 1)):
            place = np.array([[width, height]], np.int32)
            bad.append((stage, to_stage(stage, good, GEOMETRY=place), f"says {width}x{height} pixels"))
    nothing = np.zeros((1, 0, 4), np.float32)
    large = np.zeros((1, 129, 1), np.float32)
    boxes = np.zeros((1, 20_000, 6), np.float32)
    bad += [
        ("postprocess", to_stage("postprocess", good, **changes), said)  # type: ignore[arg-type]
        for changes, said in (
            ({"MAP_1": changed(good["MAP_1"], np.nan)}, "MAP_1 holds values that are not finite"),
            ({"SCORE_2": changed(good["SCORE_2"], -np.inf)}, "SCORE_2 holds values that are not finite"),
            ({"MAP_2": nothing}, "MAP_2 is 0x4"),
            ({"MAP_1": large}, "MAP_1 is 129x1; a map of this line has 1x1 to 128x128"),
            ({"BOXES_2": boxes}, "BOXES_2 holds 20000 boxes"),
            ({"MAP_1": None}, "gives map, but there came nothing"),
            ({"BOXES_1": boxes[:, :3]}, "but there came map and boxes"),
        )
    ]
    return bad


def twice(stage: str, good: dict[str, NDArray[Any]], **changes: NDArray[Any]) -> Sent:
    """A request of two pictures."""
    doubled = {name: np.concatenate([good[name]] * 2) for name in TAKES[stage]}
    return to_stage(stage, {**good, **doubled}, **changes)


def bad_to_doors() -> list[Bad]:
    """Files and arrays that are no pictures, to every front door and to the stage behind it."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    files = {
        b"": "is empty",
        b"no picture\n" * 20: "are not a JPEG, PNG, BMP or TIFF file",
        png(noise, "JPEG")[:-200]: "damaged or truncated",
        png(noise)[:60]: "damaged or truncated",
        announced_png(20_000, 20_000): "not decoded",
        png(noise[:4]): "send one of at least 16x16",
    }
    bad: list[Bad] = []
    for door in (LINE, DOORS[2], "preprocess"):
        bad += [(door, [image(content)], said) for content, said in files.items()]
        bombs = [announced_png(7000, 7000)] * 8
        bad.append((door, [image(*bombs)], "the 8 pictures of the request have 392000000 pixels together"))
    for door in (DOORS[1], DOORS[2], "preprocess"):
        bad += [
            (door, [pixels(noise[:8])], "send one of at least 16x16"),
            (door, [pixels(noise[:, :0])], "0x40 pixels"),
            (door, [pixels(noise[..., :1])], "unexpected shape"),
        ]
    for door in (DOORS[2], "preprocess"):
        bad.append((door, [image(png(noise)), pixels(noise)], "send exactly one of IMAGE"))
    square = np.zeros((1, 128, 64, 3), np.uint8)
    bad.append((names.discrepancy(LINE), [tensor("PICTURE", square, "UINT8")], "unexpected shape"))
    return bad
