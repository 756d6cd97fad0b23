"""What a build says of itself, and the proof that its files are the ones it wrote."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from flawline.errors import ArtefactError

FILE = "manifest.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataFacts(_Frozen):
    """The pictures a line was built from. `fingerprint` is Dataset.fingerprint().

    `bank_normals` filled the banks and trained the student, as far as the line has them.
    """

    name: str
    fingerprint: str
    bank_normals: int
    calibration_normals: int
    labelled_defects: int
    synthetic_defects: int


class CalibrationFacts(_Frozen):
    """How the decision was calibrated; `promise` says in words what it is worth.

    `scores` are the raw scores of normals that the line was not fitted to, ascending.
    """

    method: Literal["split", "k-fold"]
    asked_false_alarm: float
    false_alarm: float
    normals: int
    promise: str
    pixel_threshold: float
    scores: tuple[float, ...]


class TrainingFacts(_Frozen):
    """How a line's student was trained: by which detector, and the mean loss of each tenth of the steps."""

    detector: str
    steps: int
    seconds: float
    losses: tuple[float, ...]

    @property
    def statement(self) -> str:
        """In words, for the report."""
        return f"{self.detector}, {self.steps} steps in {self.seconds:.0f} s"


class ParityFacts(_Frozen):
    """How far the answers of one path lie from eager torch on the same pictures.

    Builds before maps and boxes were compared left the fields that have defaults at these.

    Attributes:
        path: 'graph' (exported, by ONNX Runtime), 'target' (compiled, in process), 'ensemble', 'ensemble pixels' or
            'fused' (the last three by a real server).
        pictures: number of pictures.
        max_score_difference: largest difference of a score, relative to the larger of the two, >= 0.
        rank_correlation: Spearman's, between both paths' scores, -1 to 1; 1 where either path's are all equal.
        decisions_flipped: number of pictures that only one of the two calls defective.
        scores_differ: whether eager torch gave the pictures more than one score.
        max_map_difference: largest difference of an anomaly map's pixel, >= 0, in units of the pixel threshold and,
            above it, relative to eager torch's pixel.
        unexplained_mask_share: share of all mask pixels, 0 to 1, that differ although eager torch's map is not
            near the threshold there.
        boxes_without_counterpart: number of boxes, of eager torch and of the path together, that the other lacks.
        min_box_iou: smallest intersection over union of a box and its counterpart, 0 to 1; None without boxes.

    """

    path: str
    pictures: int
    max_score_difference: float
    rank_correlation: float
    decisions_flipped: int
    scores_differ: bool = True
    max_map_difference: float | None = None
    unexplained_mask_share: float | None = None
    boxes_without_counterpart: int | None = None
    min_box_iou: float | None = None


class Manifest(_Frozen):
    """Everything that is known of a line's version.

    For a square of `size` pixels the graph gives `patches` features of `dimensions` numbers, both 0 for a line
    without memory banks, and a map of `discrepancy` rows and columns, None for a line without a student. `training`
    tells how that was trained, `fusion` in words how both become one, None where there is nothing to tell. `fused`
    says whether the line is also published as one model. `files` maps each file's name to its SHA-256.
    """

    format: Literal[2] = 2
    line: str
    version: int
    detector: str
    created: str
    flawline: str
    recipe: dict[str, Any]
    seed: int
    size: int
    patches: int
    dimensions: int
    discrepancy: tuple[int, int] | None
    fused: bool
    data: DataFacts
    teacher: str
    teacher_fingerprint: str
    positive_bank: str
    training: TrainingFacts | None
    fusion: str | None
    target: str
    calibration: CalibrationFacts
    metrics: dict[str, Any] | None
    parity: tuple[ParityFacts, ...]
    libraries: dict[str, str]
    artefact_key: tuple[int, int]
    files: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write `folder`/manifest.json; the folder is not published yet, so no reader can see half of it."""
        (folder / FILE).write_text(self.model_dump_json(indent=2) + "\n")


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(folder: Path) -> Manifest:
    """Read a version folder's manifest. Raises ArtefactError naming it when missing, not valid or too old."""
    path = folder / FILE
    try:
        return Manifest.model_validate_json(path.read_text())
    except (OSError, ValidationError, ValueError) as error:
        reason = _reason(error) if isinstance(error, ValidationError) else error
        msg = f"{path}: not a manifest of this version of Flawline ({reason}); build the line again"
        raise ArtefactError(msg) from error


def _reason(error: ValidationError) -> str:
    """What is wrong with a manifest; its form first, since the rest follows from that."""
    forms = [wrong["input"] for wrong in error.errors() if wrong["loc"] == ("format",)]
    if forms == [1]:
        return "it is of format 1, whose graphs lack constants that today's stages need"
    return f"its format is {forms[0]!r}, not 2" if forms else error.errors()[0]["msg"]


def verify(folder: Path) -> Manifest:
    """Read the manifest and compare every file with it.

    Raises:
        ArtefactError: naming the first file that is missing or is not the one the build wrote.

    """
    manifest = read(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            msg = f"{path}: missing; build the line again or roll back to another version"
            raise ArtefactError(msg)
        if sha256(path) != expected:
            msg = f"{path}: damaged or from another build (SHA-256 differs from {FILE}); build again or roll back"
            raise ArtefactError(msg)
    return manifest


def artefact_key(parts: dict[str, Any]) -> tuple[int, int]:
    """Two non-negative INT32 that stand for `parts` (JSON-serialisable): they tie a graph to its own banks.

    Not one INT64: OpenVINO computes with 32-bit integers on the CPU.
    """
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1, int.from_bytes(digest[4:8], "big") >> 1
