"""Lines that were built for real, on a real server: what they answer, refuse and survive.

Nothing of Flawline asks here: any gRPC client that speaks Triton's protocol is answered as these tests are.
"""

import os
import queue
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from asking import OUTPUTS, Ask, Pixels, assert_same, encoded, image, pixels, server_of, tensor
from small_build import SIZE, Published
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

from flawline.artefact.manifest import FILE
from flawline.artefact.served import NEGATIVE, ServedLine
from flawline.jobs.release import write_build_report
from flawline.repository.names import SHARED, discrepancy
from flawline.repository.publish import list_lines, live_version
from flawline.scoring.knn import BankIndex
from flawline.scoring.picture import decode, letterbox
from flawline.serving.probe import probe
from flawline.serving.tritonserver import TritonServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(published: Published) -> Iterator[TritonServer]:
    with server_of(published.repository) as running:
        yield running


@pytest.fixture(scope="module")
def ask(server: TritonServer) -> Iterator[Ask]:
    with InferenceServerClient(server.grpc_url) as client:

        def infer(model: str, tensor: InferInput) -> InferResult:
            return client.infer(model, [tensor], client_timeout=60)

        yield infer


@pytest.fixture(scope="module")
def lines(published: Published) -> dict[str, ServedLine]:
    """The same artefacts in this process."""
    return {line: ServedLine(published.artefact(line), threads=1) for line in published.built}


def wide(published: Published, line: str, number: int) -> Pixels:
    """A test picture that is not square: each has a size of its own."""
    picture = published.data[line].test[number].read_image()
    return np.ascontiguousarray(picture[: SIZE - 10 - 3 * number, : SIZE - number])


# --- what a build publishes ---


def test_the_build_proved_every_path(published: Published) -> None:
    for line, paths in (
        ("woven", ["graph", "target", "ensemble", "ensemble pixels", "fused"]),
        ("metal", ["graph", "ensemble", "ensemble pixels", "fused"]),  # its target is the graph itself
    ):
        manifest = published.built[line].manifest
        assert [fact.path for fact in manifest.parity] == paths
        for fact in manifest.parity:
            assert fact.decisions_flipped == 0
            assert fact.pictures == (16 if line == "woven" else 4)
            assert fact.max_score_difference < 1e-4
            assert fact.max_map_difference < 1e-3
            assert (fact.unexplained_mask_share, fact.boxes_without_counterpart) == (0, 0)
            assert fact.min_box_iou in (1, None)
            assert fact.rank_correlation > 0.999


def test_the_manifest_tells_what_the_line_is(published: Published) -> None:
    woven, metal = (published.built[line].manifest for line in ("woven", "metal"))
    assert woven.calibration.method == "k-fold"
    assert (woven.data.learnt_normals, woven.data.labelled_defects) == (40, 4)
    assert "4 labelled" in woven.parts[0].statements["Positive bank"]
    assert "PatchCore" in metal.parts[0].statements["Positive bank"]
    assert woven.metrics is not None
    assert woven.metrics["images"] == 16
    assert woven.artefact_key != metal.artefact_key
    assert "about 5.00%" in woven.calibration.promise
    found = list_lines(published.repository)
    assert [(status.line, status.live, status.problem) for status in found] == [
        ("metal", 1, None),
        ("woven", 1, None),
    ]


def test_good_pictures_of_another_process_break_the_promise(published: Published, tmp_path: Path) -> None:
    built = published.built["woven"]
    assert built.holdout is not None
    test = built.holdout.result().promise
    assert test is not None
    assert (test.normals, test.answer) == (8, "does not hold")
    assert test.shift is not None
    assert test.shift.direction == "higher"
    write_build_report(tmp_path / "report.html", built)
    assert "The promise: does not hold." in (tmp_path / "report.html").read_text()


def test_nothing_is_left_of_the_build(published: Published) -> None:
    left = {path.name for path in published.repository.parent.iterdir() if "repository" in path.name}
    assert left == {published.repository.name}
    assert not list(published.repository.rglob("*.tmp"))


def test_all_models_are_served(server: TritonServer) -> None:
    woven = {"woven", "woven_pixels", "woven_discrepancy", "woven_fused"}
    metal = {"metal", "metal_pixels", "metal_discrepancy"}
    assert set(server.ready_models()) == {*SHARED, *woven, *metal}
    assert server.unready_models() == {}


# --- what a line answers ---


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("model", ["woven", "woven_fused", "metal"])
def test_every_format_gives_all_tensors(
    published: Published, lines: dict[str, ServedLine], ask: Ask, kind: str, model: str
) -> None:
    line = model.removesuffix("_fused")
    content = encoded(published.data[line].test[-1].read_image(), kind)
    result = ask(model, image(content))
    assert {output.name for output in result.get_response().outputs} == set(OUTPUTS)
    for name, (dtype, shape) in OUTPUTS.items():
        values = result.as_numpy(name)
        assert values is not None
        assert (values.dtype, values.shape) == (dtype, (1, *shape))
    assert_same(result, 0, lines[line].inspect([decode(content)])[0])


def test_the_answers_tell_defects_from_normals(published: Published, ask: Ask) -> None:
    """Coarse defects of high contrast, so that all kinds of answers are compared in this file."""
    for line in ("woven", "metal"):
        called = {False: 0, True: 0}
        for sample in published.data[line].test:
            result = ask(line, image(sample.image.read_bytes()))
            called[sample.is_defect] += int(result.as_numpy("IS_DEFECT").item())  # type: ignore[union-attr]
            assert result.as_numpy("P_VALUE").item() >= np.float32(1 / 41)  # type: ignore[union-attr]
        assert called[True] > called[False]


@pytest.mark.parametrize("model", ["woven", "woven_fused"])
def test_a_batch_is_answered_in_its_order(
    published: Published, lines: dict[str, ServedLine], ask: Ask, model: str
) -> None:
    pictures = [wide(published, "woven", number) for number in (0, 9, 15)]
    result = ask(model, image(*map(encoded, pictures)))
    for row, verdict in enumerate(lines["woven"].inspect(pictures)):
        assert_same(result, row, verdict)


@pytest.mark.parametrize("number", [0, 5, 10, 15])
def test_all_doors_say_the_same(
    published: Published, lines: dict[str, ServedLine], ask: Ask, number: int
) -> None:
    picture = wide(published, "woven", number)
    assert picture.shape[0] != picture.shape[1]
    (expected,) = lines["woven"].inspect([picture])
    assert expected.geometry.inner_height < SIZE
    for model, sent in (
        ("woven", image(encoded(picture))),
        ("woven_fused", image(encoded(picture))),
        ("woven_pixels", pixels(picture)),
        ("woven_fused", pixels(picture)),
    ):
        result = ask(model, sent)
        assert_same(result, 0, expected)
        assert (result.as_numpy("ANOMALY_MAP")[0, expected.geometry.inner_height :] == 0).all()  # type: ignore[index]


def test_a_batch_of_raw_pictures(published: Published, lines: dict[str, ServedLine], ask: Ask) -> None:
    pictures = [np.ascontiguousarray(s.read_image()[:100]) for s in published.data["metal"].test[::6]]
    result = ask("metal_pixels", pixels(*pictures))
    for row, verdict in enumerate(lines["metal"].inspect(pictures)):
        assert_same(result, row, verdict)


def test_lines_that_are_asked_together_answer_by_their_own_banks(
    published: Published, lines: dict[str, ServedLine], server: TritonServer, ask: Ask
) -> None:
    """Both lines are shown all pictures of both, at once, so that the shared stages batch them together."""
    pictures = [sample.read_image() for data in published.data.values() for sample in data.test]
    jobs = [(line, picture) for picture in pictures for line in lines]
    expected = {line: lines[line].inspect(pictures) for line in lines}

    def executions() -> tuple[int, int]:
        with InferenceServerClient(server.grpc_url) as client:
            (facts,) = client.get_inference_statistics("memory_bank_negative").model_stats
        return facts.inference_count, facts.execution_count

    before = executions()
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda job: ask(job[0], image(encoded(job[1]))), jobs))
    inferences, runs = (after - earlier for after, earlier in zip(executions(), before, strict=True))
    assert inferences == len(jobs)
    assert runs < inferences, "no two pictures were ever in one batch"
    for place, ((line, _), result) in enumerate(zip(jobs, results, strict=True)):
        assert_same(result, 0, expected[line][place // len(lines)])
    assert any(
        abs(one.score - other.score) > 0.1 * one.score
        for one, other in zip(expected["woven"], expected["metal"], strict=True)
    ), "the lines differ"


def test_a_bank_stage_keeps_the_lines_of_one_batch_apart(
    published: Published, lines: dict[str, ServedLine], server: TritonServer
) -> None:
    """With many lines the requests of several wait together for a bank; here they are sent to it directly."""
    jobs = []
    for number, (line, served) in enumerate([*lines.items()] * 16):
        square, _ = letterbox(published.data[line].test[number // 2].read_image(), SIZE)
        outputs = served.graph.run(square[None])
        bank = BankIndex.load(published.artefact(line) / NEGATIVE, threads=1)
        expected = bank.search(outputs["EMBEDDING"][0])  # type: ignore[arg-type]
        sent = [
            tensor("EMBEDDING", outputs["EMBEDDING"], "FP32"),
            tensor("ARTEFACT_KEY", outputs["ARTEFACT_KEY"], "INT32"),
        ]
        jobs.append((sent, expected))
    with InferenceServerClient(server.grpc_url) as client:

        def infer(sent: list[InferInput]) -> InferResult:
            return client.infer("memory_bank_negative", sent, client_timeout=60)

        with ThreadPoolExecutor(32) as pool:
            results = list(pool.map(infer, [sent for sent, _ in jobs]))
    for result, (_, expected) in zip(results, jobs, strict=True):
        np.testing.assert_allclose(result.as_numpy("DISTANCE")[0], expected.distance, rtol=1e-5)  # type: ignore[index]
        alike = np.isclose(result.as_numpy("CROWDING")[0], expected.crowding, rtol=1e-5)  # type: ignore[index]
        assert alike.mean() > 0.98, "but for patches that are as near to two entries"


def test_a_bad_request_to_an_inner_stage_fails_alone(
    published: Published, lines: dict[str, ServedLine], server: TritonServer
) -> None:
    """What a load generator sends, or a client that takes an inner stage for a door, while others ask the line."""
    served = lines["woven"]
    square, _ = letterbox(published.data["woven"].test[0].read_image(), SIZE)
    outputs = served.graph.run(square[None])
    key = tensor("ARTEFACT_KEY", outputs["ARTEFACT_KEY"], "INT32")
    geometry = tensor("GEOMETRY", np.array([[SIZE, SIZE]], dtype=np.int32), "INT32")
    nowhere = tensor("GEOMETRY", np.zeros((1, 2), dtype=np.int32), "INT32")
    unknown = tensor("ARTEFACT_KEY", np.zeros((1, 2), dtype=np.int32), "INT32")
    embedding = tensor("EMBEDDING", outputs["EMBEDDING"], "FP32")
    narrow = tensor("EMBEDDING", np.ascontiguousarray(outputs["EMBEDDING"][..., :5]), "FP32")
    grid = outputs["EMBEDDING"].shape[1:3]
    found = tensor("MAP_1", np.ones((1, *grid), dtype=np.float32), "FP32")
    other = tensor("SCORE_1", np.ones((1, 1), dtype=np.float32), "FP32")
    bad = [
        ("ratio_scoring", [embedding, key, nowhere], "GEOMETRY says 0x0 pixels, which no picture has"),
        ("ratio_scoring", [embedding, unknown, geometry], "different builds"),
        ("ratio_scoring", [narrow, key, geometry], "EMBEDDING has 5 dimensions"),
        ("memory_bank_negative", [narrow, key], "EMBEDDING has 5 dimensions"),
        ("memory_bank_negative", [embedding, unknown], "different builds"),
        ("postprocess", [found, key, nowhere], "GEOMETRY says 0x0 pixels, which no picture has"),
        ("postprocess", [found, unknown, geometry], "different builds"),
        ("postprocess", [other, key, geometry], "gives map, but there came score"),
    ] * 4
    pictures = [sample.read_image() for sample in published.data["woven"].test[:8]]
    expected = served.inspect(pictures)
    with InferenceServerClient(server.grpc_url) as client:

        def fails(job: tuple[str, list[InferInput], str]) -> str:
            try:
                client.infer(job[0], job[1], client_timeout=60)
            except InferenceServerException as error:
                return str(error.message())
            return "answered"

        def good(number: int) -> InferResult:
            return client.infer("woven_pixels", [pixels(pictures[number % 8])], client_timeout=60)

        with ThreadPoolExecutor(16) as pool:
            refused = pool.map(fails, bad)
            answers = list(pool.map(good, range(24)))
        for said, (_, _, reason) in zip(refused, bad, strict=True):
            assert reason in said
    for number, result in enumerate(answers):
        assert_same(result, 0, expected[number % 8])


# --- what a line refuses ---


def huge_png() -> bytes:
    """20000 x 20000 pixels, says its header."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(b"\0" * 5000), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


NOISE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


BAD_IMAGES = {
    "truncated": (lambda: image(encoded(NOISE, "JPEG")[:-300]), "damaged or truncated"),
    "text": (lambda: image(b"a text file\n" * 50), "not a JPEG, PNG, BMP or TIFF"),
    "empty": (lambda: image(b""), "the picture is empty"),
    "one pixel": (lambda: image(encoded(NOISE[:1, :1])), "1x1 pixels; send one of at least 16x16"),
    "huge": (lambda: image(huge_png()), "not decoded"),
    "type": (lambda: tensor("IMAGE", NOISE[:1, :1, 0], "UINT8"), "data-type is 'UINT8'.* expects 'BYTES'"),
    "rank": (lambda: tensor("IMAGE", np.array([encoded(NOISE)], np.object_), "BYTES"), "unexpected shape"),
    "two in a row": (
        lambda: tensor("IMAGE", np.array([[b"a", b"b"]], np.object_), "BYTES"),
        "unexpected shape",
    ),
    "many": (lambda: image(*[encoded(NOISE)] * 9), "batch-size must be <= 8"),
    "name": (lambda: tensor("PICTURE", NOISE[None], "UINT8"), "unexpected inference input 'PICTURE'"),
}
BAD_PIXELS = {
    "one channel": (lambda: pixels(NOISE[:, :, :1]), "unexpected shape"),
    "8x8": (lambda: pixels(NOISE[:8, :8]), "8x8 pixels; send one of at least 16x16"),
    "nothing": (lambda: pixels(NOISE[:0]), "120x0 pixels"),
    "type": (lambda: tensor("PIXELS", NOISE[None].astype(np.float32), "FP32"), "data-type is 'FP32'"),
    "rank": (lambda: tensor("PIXELS", NOISE[:4, :, 0], "UINT8"), "unexpected shape"),
}
BAD = [
    *((model, name, *bad) for model in ("woven", "woven_fused") for name, bad in BAD_IMAGES.items()),
    *((model, name, *bad) for model in ("woven_pixels", "woven_fused") for name, bad in BAD_PIXELS.items()),
]


@pytest.mark.parametrize(
    ("model", "make", "reason"),
    [pytest.param(model, make, reason, id=f"{model}-{name}") for model, name, make, reason in BAD],
)
def test_a_bad_request_is_refused_and_harms_no_other(
    published: Published,
    lines: dict[str, ServedLine],
    server: TritonServer,
    ask: Ask,
    model: str,
    make: Callable[[], InferInput],
    reason: str,
) -> None:
    """Sent several times among good pictures, so that some of them share a batch."""
    good = published.data["woven"].test[-1].read_image()
    (expected,) = lines["woven"].inspect([good])
    sent = pixels(good) if model == "woven_pixels" else image(encoded(good))

    def answer(kind: str) -> InferResult | InferenceServerException:
        try:
            return ask(model, make() if kind == "bad" else sent)
        except InferenceServerException as error:
            return error

    kinds = ["good", "bad"] * 4
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, kinds))
    for kind, result in zip(kinds, answers, strict=True):
        if kind == "good":
            assert isinstance(result, InferResult), result
            assert_same(result, 0, expected)
        else:
            assert isinstance(result, InferenceServerException)
            assert result.status() == "StatusCode.INVALID_ARGUMENT"
            assert re.search(reason, result.message())
    assert {model, "preprocess", "postprocess"} <= set(server.ready_models())


@pytest.mark.parametrize("model", ["woven", "woven_fused"])
def test_a_bad_picture_in_a_batch_is_told_by_its_place(ask: Ask, model: str) -> None:
    good = encoded(NOISE)
    with pytest.raises(InferenceServerException, match=r"picture 2 of 3: .*not a JPEG") as caught:
        ask(model, image(good, b"no picture", good))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_one_of_two_doors_is_taken(server: TritonServer) -> None:
    both = [image(encoded(NOISE)), pixels(NOISE)]
    with InferenceServerClient(server.grpc_url) as client:
        for sent in (both, []):
            with pytest.raises(InferenceServerException) as caught:
                client.infer("woven_fused", sent, client_timeout=60)
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        with pytest.raises(InferenceServerException, match="expected 1 inputs but got 2 inputs"):
            client.infer("woven", both, client_timeout=60)


def test_an_unknown_line_is_not_found(ask: Ask) -> None:
    for model in ("screw", "metal_fused"):
        with pytest.raises(
            InferenceServerException, match=f"unknown model: '{model}' is not found"
        ) as caught:
            ask(model, image(encoded(NOISE)))
        assert caught.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize("model", ["woven", "woven_pixels", "woven_fused"])
def test_outputs_that_nobody_asked_for_do_not_travel(
    server: TritonServer, published: Published, model: str
) -> None:
    picture = published.data["woven"].test[-1].read_image()
    sent = [pixels(picture)] if model == "woven_pixels" else [image(encoded(picture))]
    with InferenceServerClient(server.grpc_url) as client:
        whole = client.infer(model, sent, client_timeout=60)
        for names in (("VERDICT", "P_VALUE"), ("MASK",), ("SCORE", "BOXES")):
            asked = [InferRequestedOutput(name) for name in names]
            result = client.infer(model, sent, outputs=asked, client_timeout=60)
            assert {output.name for output in result.get_response().outputs} == set(names)
            for name in names:
                np.testing.assert_allclose(result.as_numpy(name), whole.as_numpy(name), rtol=1e-5)
        alone = client.infer(model, sent, parameters={"decision_only": True}, client_timeout=60)
        found = {output.name for output in alone.get_response().outputs}
        assert found == {"SCORE", "P_VALUE", "VERDICT", "IS_DEFECT"}, "whatever else was not refused"
        assert alone.as_numpy("SCORE") == pytest.approx(whole.as_numpy("SCORE"), rel=1e-5)


# --- what a server survives ---


@pytest.mark.parametrize("model", ["woven", "woven_fused"])
def test_a_flood_is_answered(server: TritonServer, published: Published, model: str) -> None:
    content = encoded(wide(published, "woven", 0))
    answers: queue.Queue[InferenceServerException | None] = queue.Queue()
    with InferenceServerClient(server.grpc_url) as client:
        for _ in range(300):
            client.async_infer(
                model, [image(content)], lambda result, error: answers.put(error), client_timeout=120
            )
        assert [answers.get(timeout=120) for _ in range(300)] == [None] * 300
        client.infer(model, [image(content)], client_timeout=60)


def test_what_nobody_waits_for_is_dropped(server: TritonServer, published: Published) -> None:
    """A request whose client has given up before its turn is not computed."""
    content = encoded(wide(published, "woven", 0))
    answers: queue.Queue[InferenceServerException | None] = queue.Queue()
    with InferenceServerClient(server.grpc_url) as client:
        before = _computed(client, "woven_fused")
        for _ in range(200):
            client.async_infer(
                "woven_fused",
                [image(content)],
                lambda result, error: answers.put(error),
                client_timeout=0.3,
            )
        errors = [answers.get(timeout=120) for _ in range(200)]
        client.infer("woven_fused", [image(content)], client_timeout=60)  # after all that waited
        late = [error for error in errors if error is not None]
        assert late
        assert {str(error.status()) for error in late} == {"StatusCode.DEADLINE_EXCEEDED"}
        assert _computed(client, "woven_fused") - before < 200


@pytest.mark.parametrize("model", ["woven", "woven_fused"])
def test_no_stage_sleeps_while_a_request_waits(
    server: TritonServer, published: Published, model: str
) -> None:
    """Of two cameras whose pictures overlap none waits for the half second after which a batcher looks again."""
    content = encoded(wide(published, "woven", 0))
    waits = []
    with InferenceServerClient(server.grpc_url) as client, ThreadPoolExecutor(2) as cameras:

        def ask(pause: float) -> float:
            time.sleep(pause)
            started = time.monotonic()
            client.infer(model, [image(content)], client_timeout=60)
            return time.monotonic() - started

        for number in range(30):
            waits += cameras.map(ask, (0, 0.002 * (number % 10)))
    assert statistics.median(waits) < 0.2, "the machine is too busy to tell"
    assert sum(wait > 0.45 for wait in waits) <= 1


def _computed(client: InferenceServerClient, model: str) -> int:
    """Pictures that a model has computed so far."""
    (stats,) = client.get_inference_statistics(model).model_stats
    return int(stats.inference_count)


def flip_a_byte(repository: Path) -> str:
    bank = repository / discrepancy("metal") / "1" / NEGATIVE
    content = bytearray(bank.read_bytes())
    content[-1000] ^= 1
    bank.write_bytes(content)
    return NEGATIVE


def take_the_graph_of_another_build(repository: Path) -> str:
    shutil.copy(
        repository / discrepancy("woven") / "1" / "model.onnx", repository / discrepancy("metal") / "1"
    )
    return "model.onnx"


def lose_the_manifests(repository: Path) -> str:
    """That of `metal`, and of lines that were half removed; the banks of `woven` are sought among them."""
    for number in range(6):
        (repository / discrepancy(f"line{number}") / "1").mkdir(parents=True)
    for folder in repository.glob(f"{discrepancy('[lm]*')}/1"):
        (folder / FILE).write_text("{")
    return FILE


@pytest.mark.parametrize("damage", [flip_a_byte, take_the_graph_of_another_build, lose_the_manifests])
def test_a_damaged_line_is_refused_with_the_file_and_the_others_are_served(
    published: Published, lines: dict[str, ServedLine], tmp_path: Path, damage: Callable[[Path], str]
) -> None:
    repository, log = tmp_path / "repository", tmp_path / "server.log"
    shutil.copytree(published.repository, repository)
    file = damage(repository)
    picture = published.data["woven"].test[-1].read_image()
    (expected,) = lines["woven"].inspect([picture])
    with server_of(repository, log=log) as server, InferenceServerClient(server.grpc_url) as client:
        unready = server.unready_models()
        assert {"metal", "metal_pixels", "metal_discrepancy"} == set(unready)
        assert f"metal_discrepancy/1/{file}" in unready["metal_discrepancy"]
        assert f"metal_discrepancy/1/{file}" in log.read_text()
        for model in ("woven", "woven_fused"):
            assert_same(client.infer(model, [image(encoded(picture))], client_timeout=60), 0, expected)
        with pytest.raises(
            InferenceServerException, match=r"'metal'.*has no available versions|unknown model"
        ) as caught:
            client.infer("metal", [image(encoded(picture))], client_timeout=60)
        assert caught.value.status() in {"StatusCode.UNAVAILABLE", "StatusCode.NOT_FOUND"}
    problems = {status.line: status.problem for status in list_lines(repository)}
    assert problems["woven"] is None
    assert file in (problems["metal"] or "")


def processes(group: int) -> list[str]:
    """Those that live; a zombie only waits for init to reap it."""
    command = ["pgrep", "--pgroup", str(group), "--runstates", "DRSTt"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.split()


def test_serve_tells_what_is_ready_and_ends_with_ctrl_c(published: Published, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(published.repository, repository)
    shutil.rmtree(repository / "postprocess")  # serve puts back the stages that lines share
    flip_a_byte(repository)
    log = (tmp_path / "log").open("w+")
    ports = [f"--{name}-port=0" for name in ("grpc", "http", "metrics")]
    flawline = Path(sys.executable).with_name("flawline")
    process = subprocess.Popen(
        [flawline, "serve", "--repository", repository, *ports],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        written = ""
        while not (address := re.search(r"^gRPC (\S+) ", written, re.MULTILINE)):
            line = process.stderr.readline()
            assert line, f"it ended: {written}"
            written += line
        assert re.search(r"^Line 'metal' will not be served: .*bank_negative.*damaged", written, re.MULTILINE)
        assert re.search(r"^not served: metal_discrepancy \(.*bank_negative", written, re.MULTILINE)
        assert re.search(r"^ready: woven$", written, re.MULTILINE)
        with InferenceServerClient(address[1]) as client:
            result = client.infer("woven", [image(encoded(NOISE))], client_timeout=60)
            assert result.as_numpy("SCORE") is not None
        (group,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(processes(int(group))) > 5
        os.kill(process.pid, signal.SIGINT)
        out, told = process.communicate(timeout=120)
        assert process.returncode == 0
        assert "stopping tritonserver" in told
        assert out == "", "results alone go to standard output"
        assert processes(int(group)) == []
    finally:
        log.close()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert live_version(repository, "woven") == 1


def test_a_probe_finds_what_triton_calls_healthy(published: Published) -> None:
    """A stage is killed: Triton still says that it and the line are ready, and serves neither."""
    with server_of(published.repository) as running:
        address = running.http_url.removeprefix("http://")
        assert {each.line: each.fault for each in probe(address, published.repository)} == dict.fromkeys(
            published.built
        )
        os.kill(_stage(running, "postprocess"), signal.SIGKILL)
        faults = [each.fault or "" for each in probe(address, published.repository, timeout=60)]
        assert len(faults) == 2
        assert all("is not healthy" in fault for fault in faults)
        with InferenceServerClient(running.grpc_url) as client:
            assert client.is_server_ready()


def _stage(server: TritonServer, model: str) -> int:
    """Process of a stage's only instance."""
    (found,) = (
        stage
        for stage in server.stages()
        if f"/{model}/" in Path(f"/proc/{stage}/cmdline").read_bytes().decode()
    )
    return found
