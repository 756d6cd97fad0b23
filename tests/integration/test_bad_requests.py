"""Bad requests to every stage and every door of a real server while good clients ask: each harms itself alone."""

import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import server_of
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from flawline.artefact.served import ServedLine
from flawline.repository import names
from flawline_client import InspectionClient

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from frozen_line import (
    DOORS,
    LINE,
    TAKES,
    Sent,
    good_tensors,
    image,
    pictures,
    pixels,
    png,
    publish_frozen,
    tensor,
    to_stage,
)

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

ROUNDS = 2
STOP_S = 6.0


def stages_of(server: int) -> set[str]:
    """Processes of a server, one for each Python stage."""
    return set(Path(f"/proc/{server}/task/{server}/children").read_text().split())


Bad = tuple[str, Sent, str]
"""A model, what is sent to it, and what must be in the sentence that refuses it."""


def announced_png(width: int, height: int) -> bytes:
    """A PNG file whose header says so many pixels, and which holds almost none."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(b"\0" * 5000), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def changed(values: NDArray[Any], value: float) -> NDArray[Any]:
    """The same with one element changed."""
    copy = values.copy()
    copy.flat[copy.size // 2] = value
    return copy


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
            ({"GEOMETRY": None}, "GEOMETRY is missing"),
            ({"ARTEFACT_KEY": None}, "ARTEFACT_KEY is missing"),
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


def test_no_bad_request_harms_another(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    publish_frozen(repository)
    shown = pictures()
    line = ServedLine(repository / "frozen_discrepancy" / "1", threads=1)
    expected = [verdict.score for verdict in line.inspect(shown)]
    bad = [*bad_to_stages(good_tensors()), *bad_to_doors()]
    over, good = threading.Event(), [0] * 4
    with server_of(repository) as server, InferenceServerClient(server.grpc_url) as client:

        def ask(number: int) -> None:
            while not over.is_set():
                for place, picture in enumerate(shown):
                    door, sent = (
                        ("frozen", image(png(picture))),
                        ("frozen_pixels", pixels(picture)),
                        ("frozen_fused", image(png(picture))),
                        ("frozen_pixels", pixels(picture)),
                    )[number]
                    answer = client.infer(door, [sent], client_timeout=60).as_numpy("SCORE")
                    assert answer is not None
                    assert answer.item() == pytest.approx(expected[place], rel=1e-4)
                    good[number] += 1

        def misuse(job: Bad) -> str:
            model, sent, said = job
            try:
                client.infer(model, sent, client_timeout=60)
            except InferenceServerException as error:
                status, message = str(error.status()), str(error.message())
            else:
                return f"{model} answered, where it is to say {said!r}"
            if said not in message or "\n" in message or "please report" in message:
                return f"{model} answered {status} {message!r}, not {said!r}"
            if status not in ("StatusCode.INVALID_ARGUMENT", "StatusCode.INTERNAL"):
                return f"{model} answered {status}"
            return ""

        processes = stages_of(server.pid)
        with ThreadPoolExecutor(4) as asking, ThreadPoolExecutor(12) as misusing:
            clients = [asking.submit(ask, number) for number in range(4)]
            try:
                problems = [problem for problem in misusing.map(misuse, bad * ROUNDS) if problem]
            finally:
                over.set()
        assert [each.exception() for each in clients] == [None] * 4
        assert problems == []
        assert min(good) > 0
        assert len(processes) >= 7
        assert stages_of(server.pid) == processes, "no stage died and was started anew"
        started = time.monotonic()
        os.kill(server.pid, 15)
        server.wait()
        assert time.monotonic() - started < STOP_S


def overflow(url: str) -> None:
    """A shape of 2^80 bytes, on which the process of a stage ends within Triton 2.51."""
    sent = InferInput("PIXELS", [1, 1 << 40, 1 << 40, 3], "UINT8")
    sent._raw_content = b""
    with InferenceServerClient(url) as client, suppress(InferenceServerException):
        client.infer("preprocess", [sent], client_timeout=20)


def test_a_server_is_started_anew_where_a_stage_dies(tmp_path: Path) -> None:
    """Its clients wait for it, and Ctrl-C still ends it at once."""
    repository = tmp_path / "repository"
    publish_frozen(repository)
    process = subprocess.Popen(
        [
            *(Path(sys.executable).with_name("flawline"), "serve", "--repository", repository),
            *(f"--{name}-port=0" for name in ("grpc", "http", "metrics")),
        ],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        told = ""
        while not (address := re.search(r"^gRPC (\S+) ", told, re.MULTILINE)):
            line = process.stderr.readline()
            assert line, told
            told += line
        with ThreadPoolExecutor(1) as pool, InspectionClient(address[1], timeout=60) as client:
            rest = pool.submit(process.stderr.read)
            picture = pictures()[0]
            before = client.inspect("frozen", picture)
            overflow(address[1])
            after = client.inspect("frozen", picture)
            assert after.score == pytest.approx(before.score)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert time.monotonic() - started < STOP_S
            assert (
                "a stage has died; its log above says why: the server is started anew in 0.5 s"
                in rest.result()
            )
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
