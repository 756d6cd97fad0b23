"""What peer.py and peer_patchcore.py hand each other: arrays as .npz, everything else as JSON."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class JobFacts:
    """What to fit, apart from pictures.

    Attributes:
        teacher: as `flawline.teachers.load_teacher` takes it; a relative folder lies below the repository root.
        fingerprint: that of its weights: the peer must see the same features.
        layers: stages of the teacher, from 1; None takes its default.
        even_exposure: see `flawline.teachers.Teacher`.
        neighbours: PatchCore's `num_neighbors`.
        coreset_ratio: share of the patches that a bank keeps.
        min_bank: but at least this many, if there are as many.
        seed: of everything drawn by chance.
        held_out: rows of Job.train that a bank of the other rows scores, to calibrate: one list, or K folds.
        fit_again: whether the test pictures are scored by a bank of all rows (K folds), or by the last one.

    """

    teacher: str
    fingerprint: str
    layers: list[int] | None
    even_exposure: bool
    neighbours: int
    coreset_ratio: float
    min_bank: int
    seed: int
    held_out: list[list[int]]
    fit_again: bool


@dataclass(frozen=True)
class Job:
    """Pictures in the model square, and which patches of the teacher's finest grid lie on the picture.

    `train` UINT8 [N, S, S, 3] and `train_inside` BOOL [N, g, g] are the normals; `test` and `test_inside` the
    whole test split.
    """

    facts: JobFacts
    train: NDArray[np.uint8]
    train_inside: NDArray[np.bool_]
    test: NDArray[np.uint8]
    test_inside: NDArray[np.bool_]


@dataclass(frozen=True)
class AnswerFacts:
    """What a fit took: seconds with calibration, peak memory of its process in MB, and patches in the last bank."""

    version: str
    fit_seconds: float
    peak_rss_mb: float
    bank: int


@dataclass(frozen=True)
class Answer:
    """Scores FP32 [n], and maps FP32 [n, S, S] over the whole square, >= 0.

    The calibration ones are in the order of JobFacts.held_out, the test ones in that of Job.test.
    """

    facts: AnswerFacts
    calibration_scores: NDArray[np.float32]
    calibration_maps: NDArray[np.float32]
    test_scores: NDArray[np.float32]
    test_maps: NDArray[np.float32]


def write(folder: Path, content: Job | Answer) -> None:
    """Write `job.json` and `job.npz`, or `answer.json` and `answer.npz`, into an existing folder."""
    name = type(content).__name__.lower()
    (folder / f"{name}.json").write_text(json.dumps(asdict(content.facts), indent=2))
    arrays = {field.name: getattr(content, field.name) for field in fields(content) if field.name != "facts"}
    np.savez(folder / f"{name}.npz", **arrays)


def read_job(folder: Path) -> Job:
    """Read what `write` wrote. Raises OSError when it is not there, ValueError when an array is a pickle."""
    facts, arrays = _read(folder, "job")
    return Job(JobFacts(**facts), **arrays)


def read_answer(folder: Path) -> Answer:
    """Read what `write` wrote. Raises OSError when it is not there, ValueError when an array is a pickle."""
    facts, arrays = _read(folder, "answer")
    return Answer(AnswerFacts(**facts), **arrays)


def _read(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    facts = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        return facts, {each: arrays[each] for each in arrays.files}
