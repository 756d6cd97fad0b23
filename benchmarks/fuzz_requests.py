"""Requests that no client should send, drawn by Hypothesis: to every door of a line and every stage behind it."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from frozen_line import DOORS, DTYPES, LINE, TAKES, good_tensors
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from odd_pictures import bombs, good_pictures, no_pictures
from tritonclient.grpc import InferInput

from flawline.repository import names

MAGICS = (
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"GIF89a",
    b"\0" * 8,
)
"""How files of several kinds begin."""
FILE_DOORS = (DOORS[0], DOORS[2], "preprocess")
PIXEL_DOORS = (DOORS[1], DOORS[2], "preprocess")
STAGES = (*TAKES, names.discrepancy(LINE))
OTHER_DTYPES = {"FP32": np.float64, "INT32": np.int64, "UINT8": np.int8}

NAMES = st.text(st.characters(exclude_categories=("C", "Z")), max_size=20)

Draw = Callable[..., Any]
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Ask:
    """One request: a model, and what is sent to it: tensors over gRPC, or else a body over HTTP.

    `head` is what the HTTP header says of the length of the JSON part; None leaves the header out.
    """

    model: str
    inputs: tuple[InferInput, ...] = ()
    body: bytes | None = None
    head: str | None = None

    def __repr__(self) -> str:
        if self.body is not None:
            return f"HTTP {self.model}(head {self.head}, {self.body[:60]!r})"
        told = ", ".join(f"{each.name()} {each.datatype()} {each.shape()}" for each in self.inputs)
        return f"{self.model}({told})"


@cache
def _tensors() -> dict[str, Tensors]:
    """A good request to every stage, as arrays by tensor name."""
    good = good_tensors()
    by_stage = {stage: {name: good[name] for name in taken} for stage, taken in TAKES.items()}
    by_stage[names.discrepancy(LINE)] = {"PICTURE": np.zeros((1, 128, 128, 3), np.uint8)}
    return by_stage


@cache
def _files() -> tuple[bytes, ...]:
    return tuple(good_pictures().values())


def as_image(*contents: bytes) -> InferInput:
    """Tensor IMAGE of any contents."""
    return InferInput("IMAGE", [len(contents), 1], "BYTES").set_data_from_numpy(
        np.array([[content] for content in contents], dtype=np.object_)
    )


def raw(name: str, dtype: str, shape: list[int], content: bytes) -> InferInput:
    """A tensor whose bytes need not be what its type and shape say."""
    sent = InferInput(name, shape, dtype)
    sent._raw_content = content
    return sent


@st.composite
def odd_modes(draw: Draw) -> Ask:
    """A whole picture of any mode and format."""
    return Ask(draw(st.sampled_from(FILE_DOORS)), (as_image(draw(st.sampled_from(_files()))),))


@st.composite
def truncated(draw: Draw) -> Ask:
    """A file cut short, anywhere."""
    content = draw(st.sampled_from(_files()))
    cut = draw(st.integers(0, len(content) - 1))
    return Ask(draw(st.sampled_from(FILE_DOORS)), (as_image(content[:cut]),))


@st.composite
def flipped(draw: Draw) -> Ask:
    """A file with some bits flipped, most of them where the headers are."""
    content = bytearray(draw(st.sampled_from(_files())))
    near = st.integers(0, min(200, len(content) - 1)) | st.integers(0, len(content) - 1)
    for place in draw(st.lists(near, min_size=1, max_size=8)):
        content[place] ^= 1 << draw(st.integers(0, 7))
    return Ask(draw(st.sampled_from(FILE_DOORS)), (as_image(bytes(content)),))


@st.composite
def wrong_headers(draw: Draw) -> Ask:
    """A file that begins as one of another kind, that something stands before, or that is none."""
    content = draw(st.sampled_from(_files()) | st.sampled_from(tuple(no_pictures().values())))
    magic = draw(st.sampled_from(MAGICS))
    way = draw(st.sampled_from(("instead", "before", "noise", "as it is")))
    changed = {
        "instead": magic + content[len(magic) :],
        "before": magic + content,
        "noise": magic + draw(st.binary(max_size=300)),
        "as it is": content,
    }[way]
    return Ask(draw(st.sampled_from(FILE_DOORS)), (as_image(changed),))


@cache
def _bombs() -> tuple[bytes, ...]:
    return tuple(bombs().values())


@st.composite
def large(draw: Draw) -> Ask:
    """A small file of a large picture, or several in one request."""
    several = draw(st.lists(st.sampled_from(_bombs()), min_size=1, max_size=3))
    return Ask(draw(st.sampled_from(FILE_DOORS)), (as_image(*several),))


@st.composite
def malformed(draw: Draw) -> Ask:
    """Bytes that are not what type and shape of the tensor say."""
    content = draw(st.binary(max_size=200))
    length = draw(st.sampled_from((0, 1, len(content), len(content) + 1, 2**31, 2**32 - 1)))
    shape = draw(st.sampled_from(([1, 1], [2, 1], [1, 2], [1], [], [0, 1], [9, 1], [1, 1, 1])))
    if draw(st.booleans()):
        sent = raw("IMAGE", "BYTES", list(shape), struct.pack("<I", length) + content)
        return Ask(draw(st.sampled_from(FILE_DOORS)), (sent,))
    # Below 2^64 bytes in all: beyond that the process of a stage ends within Triton 2.51, see docs/serving.md.
    sides = [draw(st.sampled_from((0, 1, 16, 2**20, 2**31 - 1))) for _ in range(2)]
    return Ask(draw(st.sampled_from(PIXEL_DOORS)), (raw("PIXELS", "UINT8", [1, *sides, 3], content),))


@st.composite
def odd_pixels(draw: Draw) -> Ask:
    """Raw pixels of any shape, also such as are no picture."""
    shape = draw(arrays.array_shapes(min_dims=3, max_dims=4, min_side=0, max_side=70))
    values = np.full(shape, draw(st.integers(0, 255)), np.uint8)
    if draw(st.booleans()):
        values = np.resize(values, (*shape[:-1], 3)) if values.size else np.zeros((*shape[:-1], 3), np.uint8)
    if draw(st.booleans()):
        values = values[None] if values.ndim == 3 else values
    sent = raw("PIXELS", "UINT8", list(values.shape), values.tobytes())
    return Ask(draw(st.sampled_from(PIXEL_DOORS)), (sent,))


def _sent(tensors: Tensors) -> tuple[InferInput, ...]:
    return tuple(
        InferInput(name, list(values.shape), DTYPES[str(values.dtype)]).set_data_from_numpy(values)
        for name, values in tensors.items()
    )


@st.composite
def no_numbers(draw: Draw) -> Ask:
    """What an inner stage takes, with values in it that are not finite, or beyond all measure."""
    stage = draw(st.sampled_from(tuple(TAKES)))
    tensors = {name: values.copy() for name, values in _tensors()[stage].items()}
    name = draw(st.sampled_from(sorted(tensors)))
    values = tensors[name]
    odd = (
        st.sampled_from((np.nan, np.inf, -np.inf, 3e38, -1.0, 1e15, 1e-40))
        if values.dtype == np.float32
        else st.sampled_from((0, -1, 1, 15, 2**31 - 1, -(2**31)))
    )
    for place in draw(st.lists(st.integers(0, values.size - 1), min_size=1, max_size=5)):
        values.flat[place] = draw(odd)
    return Ask(stage, _sent(tensors))


@st.composite
def other_shapes(draw: Draw) -> Ask:
    """What an inner stage takes, one tensor of it in another shape."""
    stage = draw(st.sampled_from(STAGES))
    tensors = dict(_tensors()[stage])
    name = draw(st.sampled_from(sorted(tensors)))
    values = tensors[name]
    shape = list(values.shape)
    axis = draw(st.integers(0, len(shape) - 1))
    shape[axis] = draw(st.sampled_from((0, 1, 2, 3, 5, 8, 9, 17, 200)))
    tensors[name] = np.resize(values, shape) if values.size else values
    return Ask(stage, _sent(tensors))


@st.composite
def other_types(draw: Draw) -> Ask:
    """What an inner stage takes, one tensor of it of another type, missing, twice or of a name that none has."""
    stage = draw(st.sampled_from(STAGES))
    sent = list(_sent(_tensors()[stage]))
    place = draw(st.integers(0, len(sent) - 1))
    way = draw(st.sampled_from(("type", "missing", "name", "other stage")))
    if way == "type":
        name, kind = sent[place].name(), sent[place].datatype()
        values = _tensors()[stage][name].astype(OTHER_DTYPES[kind])
        other = {"float64": "FP64", "int64": "INT64", "int8": "INT8"}[str(values.dtype)]
        sent[place] = InferInput(name, list(values.shape), other).set_data_from_numpy(values)
    elif way == "missing":
        del sent[place]
    elif way == "name":
        sent[place] = raw(draw(NAMES), "FP32", [1, 1], struct.pack("<f", draw(st.floats(width=32))))
    else:
        stage = draw(st.sampled_from((*STAGES, *DOORS)))
    return Ask(stage, tuple(sent))


@st.composite
def together(draw: Draw) -> Ask:
    """Several pictures in one request, some of them no pictures."""
    contents = draw(
        st.lists(st.sampled_from(_files() + tuple(no_pictures().values())), min_size=2, max_size=9)
    )
    return Ask(draw(st.sampled_from(FILE_DOORS)), (as_image(*contents),))


@st.composite
def bodies(draw: Draw) -> Ask:
    """Over HTTP: raw files, broken ones, and JSON that is none or says nonsense."""
    content = draw(st.sampled_from(_files()) | st.binary(max_size=300))
    head = {
        "inputs": [
            {
                "name": draw(st.sampled_from(("IMAGE", "PIXELS", "GEOMETRY")) | NAMES),
                "datatype": draw(st.sampled_from(("BYTES", "UINT8", "FP32", "FP8"))),
                "shape": draw(st.lists(st.integers(-2, 2**15), max_size=4)),
                "parameters": {"binary_data_size": draw(st.integers(-1, 400))},
            }
        ]
    }
    text = json.dumps(head).encode()
    way = draw(st.sampled_from(("raw", "json", "cut", "noise", "long")))
    body, length = {
        "raw": (content, "0"),
        "json": (text + content, str(len(text))),
        "cut": (text[: len(text) // 2], None),
        "noise": (content, None),
        "long": (text, str(len(text) + draw(st.integers(1, 2**40)))),
    }[way]
    return Ask(draw(st.sampled_from((*DOORS, *STAGES))), body=body, head=length)


FAULTS: dict[str, Callable[[], st.SearchStrategy[Ask]]] = {
    "files of odd modes": odd_modes,
    "truncated files": truncated,
    "flipped bits": flipped,
    "wrong headers": wrong_headers,
    "bombs": large,
    "malformed bytes": malformed,
    "odd pixels": odd_pixels,
    "good and bad files in one request": together,
    "bodies over HTTP": bodies,
    "stages: values that are no numbers": no_numbers,
    "stages: other shapes": other_shapes,
    "stages: other types and names": other_types,
}
"""Strategies by what a table calls them."""
