"""Lines with a student, alone and beside memory banks, on a real server together with one of banks alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from asking import Ask, assert_same, encoded, image, pixels, server_of, tensor
from small_build import Published
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult
from tritonclient.utils import InferenceServerException

from flawline.artefact.served import NEGATIVE, ServedLine
from flawline.jobs.release import write_build_report
from flawline.repository.names import SHARED
from flawline.repository.publish import list_lines
from flawline.scoring.finding import Finding
from flawline.scoring.picture import Geometry
from flawline.scoring.verdict import Verdict, judge
from flawline.serving.tritonserver import TritonServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

LINES = ("pair", "alone")


@pytest.fixture(scope="module")
def server(learnt: Published) -> Iterator[TritonServer]:
    with server_of(learnt.repository) as running:
        yield running


@pytest.fixture(scope="module")
def ask(server: TritonServer) -> Iterator[Ask]:
    with InferenceServerClient(server.grpc_url) as client:

        def infer(model: str, sent: InferInput) -> InferResult:
            return client.infer(model, [sent], client_timeout=60)

        yield infer


@pytest.fixture(scope="module")
def lines(learnt: Published) -> dict[str, ServedLine]:
    return {line: ServedLine(learnt.artefact(line), threads=1) for line in learnt.built}


@pytest.mark.parametrize("line", LINES)
def test_the_build_proved_every_path(learnt: Published, line: str) -> None:
    facts = learnt.built[line].manifest.parity
    assert [fact.path for fact in facts] == ["graph", "target", "ensemble", "ensemble pixels", "fused"]
    for fact in facts:
        assert (fact.pictures, fact.decisions_flipped) == (8, 0)
        assert fact.max_score_difference < 1e-4
        assert fact.max_map_difference < 1e-3
        assert (fact.unexplained_mask_share, fact.boxes_without_counterpart) == (0, 0)
        assert fact.min_box_iou in (1, None)
        assert fact.rank_correlation > 0.999


def test_each_line_has_the_models_and_files_of_its_parts(learnt: Published, server: TritonServer) -> None:
    doors = {f"{line}{door}" for line in learnt.built for door in ("", "_pixels", "_discrepancy", "_fused")}
    assert set(server.ready_models()) == {*SHARED, *doors}
    assert server.unready_models() == {}
    assert {status.line: status.problem for status in list_lines(learnt.repository)} == dict.fromkeys(
        learnt.built
    )
    pair, alone = (learnt.built[line].manifest for line in LINES)
    assert NEGATIVE in pair.files
    assert not any("bank" in name for name in alone.files)
    assert [[part.name for part in each.parts] for each in (pair, alone)] == [["sacd", "exdd"], ["ddpm_ast"]]
    assert all(part.training.steps == 4 for part in (pair.parts[0], alone.parts[0]))  # type: ignore[union-attr]
    assert pair.artefact_key != alone.artefact_key


def test_the_report_tells_of_student_and_fusion(learnt: Published, tmp_path: Path) -> None:
    for line, student, fusion in (
        ("pair", "sacd, 4 steps in", "product of the parts: sacd weighs 0.25"),
        ("alone", "ddpm_ast, 4 steps in", "none: one detector alone"),
    ):
        write_build_report(tmp_path / line, learnt.built[line])
        page = (tmp_path / line).read_text()
        assert student in page
        assert fusion in page
        assert "How the student learnt" in page


@pytest.mark.parametrize("line", LINES)
def test_every_door_answers_as_eager_torch_did(
    learnt: Published, lines: dict[str, ServedLine], ask: Ask, line: str
) -> None:
    """Scores and decisions of the build's own comparison; maps and boxes of the same artefact in this process."""
    rows = learnt.built[line].evaluation.rows
    for sample, eager in zip(learnt.data[line].test[::2], rows, strict=True):
        assert sample.image.name == eager.name.rpartition("/")[2]
        picture = sample.read_image()
        (verdict,) = lines[line].inspect([picture])
        for model, sent in (
            (line, image(sample.image.read_bytes())),
            (f"{line}_pixels", pixels(picture)),
            (f"{line}_fused", image(sample.image.read_bytes())),
            (f"{line}_fused", pixels(picture)),
        ):
            result = ask(model, sent)
            assert_same(result, 0, verdict)
            assert result.as_numpy("SCORE").item() == pytest.approx(eager.score, rel=1e-4)  # type: ignore[union-attr]
            assert result.as_numpy("IS_DEFECT").item() is eager.called  # type: ignore[union-attr]


def test_lines_of_every_kind_and_size_are_asked_together(
    learnt: Published, lines: dict[str, ServedLine], server: TritonServer, ask: Ask
) -> None:
    """Two pictures in each request, not square, so that each has padding; by ensembles and fused models at once."""
    pictures = [np.ascontiguousarray(s.read_image()[:100]) for s in learnt.data["alone"].test[::4]]
    jobs = [(line, door, n) for n in range(len(pictures)) for line in lines for door in ("", "", "_fused")]
    expected = {line: lines[line].inspect(pictures) for line in lines}

    def answer(job: tuple[str, str, int]) -> InferResult:
        line, door, number = job
        twice = [encoded(pictures[number]), encoded(pictures[number - 1])]
        return ask(f"{line}{door}", image(*twice))

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(answer, jobs))
    for (line, _, number), result in zip(jobs, results, strict=True):
        assert_same(result, 0, expected[line][number])
        assert_same(result, 1, expected[line][number - 1])


OF_LINE = {"woven": ("exdd",), "alone": ("ddpm_ast",), "pair": ("sacd", "exdd")}
"""Lines with their parts."""


def scored(lines: dict[str, ServedLine], line: str, seed: int) -> tuple[list[InferInput], Verdict]:
    """A request to postprocess with findings of each part of a line, and the verdict it must get."""
    rng = np.random.default_rng(seed)
    served = lines[line]
    geometry = Geometry.fit(128, 100, served.size)
    sent = [
        tensor("ARTEFACT_KEY", np.array([served.manifest.artefact_key], dtype=np.int32), "INT32"),
        tensor("GEOMETRY", np.array([[128, 100]], dtype=np.int32), "INT32"),
    ]
    findings = []
    for number in range(1, len(OF_LINE[line]) + 1):
        patch_map = rng.gamma(2, size=(16, 16)).astype(np.float32)
        sent.append(tensor(f"MAP_{number}", patch_map[None], "FP32"))
        findings.append(Finding(patch_map))
    return sent, judge(findings, geometry, served.rules.settings, served.rules.calibration.scores)


def test_postprocess_keeps_requests_of_different_parts_apart(
    lines: dict[str, ServedLine], server: TritonServer
) -> None:
    """All shapes are alike, so that nothing but the parts that came could keep them out of one batch.

    Among them requests that lack a part of which their settings speak: they alone are refused.
    """
    kinds = (*OF_LINE, "lost") * 12
    jobs = [scored(lines, "pair" if kind == "lost" else kind, n) for n, kind in enumerate(kinds)]
    with InferenceServerClient(server.grpc_url) as client:

        def runs() -> tuple[int, int]:
            (facts,) = client.get_inference_statistics("postprocess").model_stats
            return facts.inference_count, facts.execution_count

        def infer(number: int) -> InferResult | InferenceServerException:
            sent = jobs[number][0]
            lost = kinds[number] == "lost"
            try:
                return client.infer("postprocess", sent[:-1] if lost else sent, client_timeout=60)
            except InferenceServerException as error:
                return error

        before = runs()
        with ThreadPoolExecutor(len(jobs)) as pool:
            results = list(pool.map(infer, range(len(jobs))))
        answered, executed = (after - earlier for after, earlier in zip(runs(), before, strict=True))
    for kind, result, (_, expected) in zip(kinds, results, jobs, strict=True):
        if kind == "lost":
            assert isinstance(result, InferenceServerException)
            assert "part 'exdd' gives map, but there came nothing; " in result.message()
        else:
            assert isinstance(result, InferResult), result
            assert_same(result, 0, expected)
    assert executed < answered == len(jobs), "no two requests were ever in one batch"


@pytest.mark.parametrize("model", ["pair", "alone", "alone_fused"])
def test_a_bad_picture_harms_no_other(
    learnt: Published, lines: dict[str, ServedLine], ask: Ask, model: str
) -> None:
    line = model.removesuffix("_fused")
    good = learnt.data[line].test[-1].read_image()
    (expected,) = lines[line].inspect([good])

    def answer(content: bytes) -> InferResult | InferenceServerException:
        try:
            return ask(model, image(content))
        except InferenceServerException as error:
            return error

    contents = [encoded(good), b"no picture"] * 4
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(answer, contents))
    for content, result in zip(contents, results, strict=True):
        if content == b"no picture":
            assert isinstance(result, InferenceServerException)
            assert result.status() == "StatusCode.INVALID_ARGUMENT"
        else:
            assert isinstance(result, InferResult), result
            assert_same(result, 0, expected)
    with pytest.raises(InferenceServerException, match=r"picture 2 of 2: .*not a JPEG"):
        ask(model, image(encoded(good), b"no picture"))
