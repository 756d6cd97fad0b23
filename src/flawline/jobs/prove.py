"""Does the served line answer as the trained one did? Compared picture by picture, before publishing."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from flawline.artefact.manifest import ParityFacts
from flawline.artefact.served import ServedLine
from flawline.data import Sample
from flawline.detectors.fitted import FittedLine
from flawline.errors import DataError, FlawlineError
from flawline.progress import track
from flawline.report.evaluation import Evaluation
from flawline.repository import names
from flawline.serving.tritonserver import TritonServer
from flawline_client import Inspection, InspectionClient

BATCH = 8
CONCURRENCY = 4


class ParityError(FlawlineError):
    """A served line that decides otherwise than the trained one; it is not published."""


@dataclass(frozen=True)
class Answer:
    """What one path said of one picture."""

    score: float
    is_defect: bool


def compare(path: str, reference: Sequence[Answer], answers: Sequence[Answer]) -> ParityFacts:
    """Compare the answers of one path with those of eager torch, on the same pictures in the same order."""
    expected = np.array([answer.score for answer in reference])
    scores = np.array([answer.score for answer in answers])
    scale = np.maximum(np.maximum(np.abs(expected), np.abs(scores)), 1e-12)
    varied = len(set(expected)) > 1 and len(set(scores)) > 1
    return ParityFacts(
        path=path,
        pictures=len(reference),
        max_score_difference=float((np.abs(expected - scores) / scale).max()),
        rank_correlation=float(spearmanr(expected, scores).statistic) if varied else 1.0,
        decisions_flipped=sum(a.is_defect != b.is_defect for a, b in zip(reference, answers, strict=True)),
    )


def demand_parity(facts: Sequence[ParityFacts]) -> None:
    """Raise ParityError naming the first path that flipped a decision."""
    for fact in facts:
        if fact.decisions_flipped:
            msg = (
                f"path '{fact.path}' decides otherwise than the trained line on {fact.decisions_flipped} of "
                f"{fact.pictures} pictures (scores differ by up to {fact.max_score_difference:.2e}); nothing was "
                "published: try another --target, and report this"
            )
            raise ParityError(msg)


def prove(
    fitted: FittedLine, artefact: Path, repository: Path, samples: Sequence[Sample]
) -> tuple[Evaluation, list[ParityFacts]]:
    """Answer the same pictures by every path and compare each with eager torch.

    Paths: the exported graph and the compiled target in process, and a real Triton server through both front
    doors of the ensemble and through the fused model.

    Args:
        fitted: the trained line, on the CPU.
        artefact: version folder of the line in `repository`.
        repository: a model repository with the line and the shared stages.
        samples: pictures, read one batch at a time.

    Returns:
        Eager torch's evaluation on `samples`, and the comparisons.

    """
    evaluation = Evaluation(fitted.settings.false_alarm, fitted.seed)
    threads = len(os.sched_getaffinity(0))
    served = {"graph": ServedLine(artefact, threads=threads, target="onnxruntime")}
    if served["graph"].manifest.target != "onnxruntime":
        served["target"] = ServedLine(artefact, threads=threads)
    reference: list[Answer] = []
    answers: dict[str, list[Answer]] = {path: [] for path in served}
    for batch in track(list(_batched(samples)), "comparing eager and compiled"):
        pictures = [sample.read_image() for sample in batch]
        for sample, verdict in zip(batch, fitted.inspect(pictures), strict=True):
            evaluation.add(sample, verdict)
            reference.append(Answer(float(np.float32(verdict.score)), verdict.is_defect))
        for path, line in served.items():
            answers[path] += [Answer(v.score, v.is_defect) for v in line.inspect(pictures)]
    manifest = served["graph"].manifest
    with TritonServer(repository, grpc_port=0, http_port=0, metrics_port=0) as server:
        if unready := server.unready_models():
            reasons = "; ".join(f"{name}: {reason}" for name, reason in unready.items())
            msg = f"the server does not load all models of the new version ({reasons}); nothing was published"
            raise FlawlineError(msg)
        with InspectionClient(server.grpc_url, timeout=60) as client:
            for path, model, raw in (
                ("ensemble", manifest.line, False),
                ("ensemble pixels", manifest.line, True),
                ("fused", names.fused(manifest.line), False),
            ):
                answers[path] = _ask_server(client, model, samples, f"comparing eager and {path}", raw=raw)
    return evaluation, [compare(path, reference, given) for path, given in answers.items()]


def _ask_server(
    client: InspectionClient, model: str, samples: Sequence[Sample], description: str, *, raw: bool
) -> list[Answer]:
    answers = []
    for batch in track(list(_batched(samples)), description):
        pictures = [sample.read_image() if raw else sample.image for sample in batch]
        for result in client.inspect_many(model, pictures, concurrency=CONCURRENCY):
            if not isinstance(result, Inspection):
                raise DataError(str(result)) from result
            answers.append(Answer(result.score, result.is_defect))
    return answers


def _batched(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), BATCH):
        yield samples[start : start + BATCH]
