"""What a build says of itself, and the proof that its files are the ones it wrote."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from flawline.errors import ArtefactError, first_fault
from flawline.scoring.finding import Role
from flawline.scoring.picture import EIGHT
from flawline.scoring.windows import WindowSettings

FILE = "manifest.json"
REFERENCE = "reference"
"""Folder of an artefact with pictures of the line, on which a version made from it is proved."""
FORMAT = 3
"""Raised when older code could not serve a new artefact. Whatever is added to a format has a default."""
REGION = "anomaly"
"""Class of the regions of a map in a line that also has named classes."""
OLDEST = 3
"""Formats before this one kept no weights and no settings that could be read back."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PrecisionFacts(_Frozen):
    """How right the boxes of held-out labelled pictures are; see flawline.scoring.calibration.Precision."""

    asked: float
    reached: float
    found: float
    labels: int


class DataFacts(_Frozen):
    """The pictures a line was built from.

    Attributes:
        name: data set, as results print it.
        fingerprint: SHA-256 of its training pictures and masks; see Dataset.fingerprint.
        learnt_normals: number of normal pictures that the line learnt from.
        labelled_defects: number of labelled defect pictures that it learnt from.
        learnt: one digest for each normal picture that it learnt from; see flawline.data.digests.

    """

    name: str
    fingerprint: str
    learnt_normals: int
    labelled_defects: int
    learnt: tuple[str, ...] = ()


class CalibrationFacts(_Frozen):
    """How the decision was calibrated.

    Attributes:
        method: how the normals were kept apart.
        asked_false_alarm: budget that was asked for.
        false_alarm: budget that so many normals support.
        normals: number of normals that calibrated.
        promise: what the decision is worth, in words.
        pixel_threshold: fused, smoothed score from which a pixel is called defective.
        asked_look_again: second budget that was asked for, of pictures to be called defective or looked at again;
            None for builds before there was one.
        look_again: second budget that so many normals support; None as before.
        worth: how many independent pictures each normal counts for, in (0, 1].
        limit: which odd normals set the limit for all, and what another budget would change, in words; None where
            none do.
        precision: how right boxes are on labelled pictures, which `normals` then counts; None where normals
            calibrated the line.

    """

    method: Literal["split", "k-fold", "labelled"]
    asked_false_alarm: float
    false_alarm: float
    normals: int
    promise: str
    pixel_threshold: float
    asked_look_again: float | None = None
    look_again: float | None = None
    worth: float = 1.0
    limit: str | None = None
    precision: PrecisionFacts | None = None


class OddNormal(_Frozen):
    """A normal of the highest scores among those that calibrated; perhaps it is not good.

    Attributes:
        name: folder and file name of the picture.
        score: its raw score by the line, which did not learn from it.
        p_value: its p-value among its fellows, the other normals.
        deviations: how far it lies above their median; see flawline.scoring.oddness.deviations.
        stands_out: whether that is far.

    """

    name: str
    score: float
    p_value: float
    deviations: float
    stands_out: bool


class IgnoredFacts(_Frozen):
    """Regions of the pictures that are neither learnt nor judged; the mask itself is a file of the artefact.

    Attributes:
        width, height: pixels of the pictures that they are for; others are refused.
        share: share of the picture, above 0 and below 1, as the model square shows it.

    """

    width: int
    height: int
    share: float

    @property
    def statement(self) -> str:
        """In words, for reports."""
        return (
            f"{self.share:.1%} of the picture; only pictures of {self.width}x{self.height} pixels are taken"
        )


class TrainingFacts(_Frozen):
    """How a part was trained: steps, seconds, and the mean loss of each tenth of the steps."""

    steps: int
    seconds: float
    losses: tuple[float, ...]


class TensorFacts(_Frozen):
    """An output of a line's graph for one square or window; `dims` leave out the batch."""

    name: str
    dtype: Literal["FP32", "INT32"] = "FP32"
    dims: tuple[int, ...]


class PartFacts(_Frozen):
    """One part of a line.

    Attributes:
        name: name of the detector.
        outputs: what the part adds to the line's graph.
        stage: shared Triton stage that turns these outputs into the finding; None where they are the finding.
        gives: tensor that holds each role of the finding.
        maps: positions among the teacher's maps of those that the part takes.
        architecture: what is needed to build its network again, as JSON values.
        statements: what a report says of it, in words, by heading.
        training: how it was trained; None for a part without training.
        classes: names of the classes of its boxes, in the order of their numbers; none for a part without classes.

    """

    name: str
    outputs: tuple[TensorFacts, ...]
    stage: str | None
    gives: dict[Role, str]
    maps: tuple[int, ...]
    architecture: dict[str, Any]
    statements: dict[str, str]
    training: TrainingFacts | None
    classes: tuple[str, ...] = ()


class Origin(_Frozen):
    """The version that another one was made from, and what was changed, in words."""

    version: int
    change: str


class Candidate(_Frozen):
    """What a search may choose.

    Attributes:
        detector: its parts, joined by +.
        size: side of the model square in pixels.
        even_exposure: whether each picture is first brought to one brightness and contrast.

    """

    detector: str
    size: int
    even_exposure: bool

    @property
    def title(self) -> str:
        """The candidate in words."""
        return f"{self.detector}, size {self.size}, exposure {'evened' if self.even_exposure else 'as it is'}"


class CandidateFacts(Candidate):
    """One candidate of a search, and how it did on held-out pictures.

    Attributes:
        trials: number of trials that the figures rest on, each with other pictures held out.
        found: share of the defects of each kind found at the budgets of the search, 0 to 1; mean over the trials.
        image_auroc: image AUROC of each kind of defect against held-out normals, 0 to 1; mean over the trials.
        merit: figure that ranks candidates, 0 to 1; None where there was no trial.
        behind: merit of the best candidate less its own, on the trials that it had; None where there was none.
        error: standard error of `behind`.
        seconds: seconds that a trial took, or would have taken.
        verdict: why it was chosen or not, in words.

    """

    trials: int
    found: dict[str, float] = {}
    image_auroc: dict[str, float] = {}
    merit: float | None = None
    behind: float | None = None
    error: float | None = None
    seconds: float
    verdict: str


class SearchFacts(_Frozen):
    """How a build chose detector and settings.

    Attributes:
        rule: how candidates were ranked and one was chosen, in words.
        judged_by: the pictures that they were judged by, in words.
        labelled_defects: number of labelled training defects among these.
        chosen: position of the chosen one among `candidates`.
        candidates: all of them, the cheapest first.

    """

    rule: str
    judged_by: str
    labelled_defects: int
    chosen: int
    candidates: tuple[CandidateFacts, ...]

    @property
    def statement(self) -> str:
        """The choice and every candidate's figures, in words."""
        told = [f"{self.candidates[self.chosen].title}. Judged by {self.judged_by}. {self.rule}"]
        for each in self.candidates:
            merit = "" if each.merit is None else f"merit {each.merit:.3f}, "
            told.append(f"{each.title}: {merit}{each.verdict}.")
        return " ".join(told)


class ParityFacts(_Frozen):
    """How far the answers of one path lie from eager torch on the same pictures.

    Builds before maps and boxes were compared left the fields that have defaults at these.

    Attributes:
        path: 'graph' (exported, by ONNX Runtime), 'target' (compiled, in process), 'ensemble', 'ensemble pixels' or
            'fused' (the last three by a real server).
        pictures: number of pictures.
        max_score_difference: largest difference of a score, relative to the larger of the two, >= 0.
        rank_correlation: Spearman's, between both paths' scores, -1 to 1; 1 where either path's are all equal.
        decisions_flipped: number of pictures that the two answer differently: reject, look again or pass.
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

    Attributes:
        format: form of the artefact.
        line, version: name and number under which it is published.
        detector: its parts, joined by +.
        created: time of the build, ISO 8601.
        flawline: version of Flawline that built it.
        recipe: all settings of the build.
        seed: seed of every random choice.
        size: side of the model square, or of each window, in pixels.
        windows: how pictures are cut into windows; None brings each whole into one square.
        bits: bits that the values of its pictures fill; see LineSettings.
        fused: whether the line is also published as one model.
        data: pictures it was built from.
        teacher: description of the teacher; see flawline.teachers.Teacher.description.
        parts: its parts, in the order of its settings.
        fusion: how several parts become one, in words; None for a part alone.
        target: how its graph was compiled.
        calibration: how its decision was calibrated.
        odd_normals: normals of the highest scores among those that calibrated, highest first.
        ignored: regions of the pictures that it does not judge; None where there are none.
        metrics: figures on the pictures that parity compared; None where these had no labels.
        parity: comparisons of served and trained answers.
        origin: version that it was made from; None for one that was fitted.
        search: how detector and settings were chosen; None where the user named them.
        libraries: versions of the libraries that built it.
        artefact_key: two numbers that the graph gives and by which stages find settings and banks.
        files: SHA-256 of each other file by its path in the folder.

    """

    format: int = FORMAT
    line: str
    version: int
    detector: str
    created: str
    flawline: str
    recipe: dict[str, Any]
    seed: int
    size: int
    windows: WindowSettings | None = None
    bits: int = EIGHT
    fused: bool
    data: DataFacts
    teacher: dict[str, Any]
    parts: tuple[PartFacts, ...]
    fusion: str | None
    target: str
    calibration: CalibrationFacts
    odd_normals: tuple[OddNormal, ...] = ()
    ignored: IgnoredFacts | None = None
    metrics: dict[str, Any] | None
    parity: tuple[ParityFacts, ...]
    origin: Origin | None = None
    search: SearchFacts | None = None
    libraries: dict[str, str]
    artefact_key: tuple[int, int]
    files: dict[str, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in BOXES, in the order of their numbers; see LineSettings.classes."""
        return line_classes((part.classes, "map" in part.gives) for part in self.parts)

    @property
    def boxes(self) -> tuple[str, ...]:
        """Names of the tensors that hold boxes."""
        return tuple(part.gives["boxes"] for part in self.parts if "boxes" in part.gives)

    def write(self, folder: Path) -> None:
        """Write `folder`/manifest.json; the folder is not published yet, so no reader can see half of it."""
        (folder / FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def line_classes(parts: Iterable[tuple[Sequence[str], bool]]) -> tuple[str, ...]:
    """Names of the classes of a line; none where no part names any.

    Args:
        parts: names of the classes of each part, and whether it gives a map. At most one part names classes; the
            regions of a map beside it are of a class of their own, the last.

    """
    parts = tuple(parts)
    names = tuple(name for classes, _ in parts for name in classes)
    return (*names, REGION) if names and any(mapped for _, mapped in parts) else names


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder and below it, by its path there, but for the manifest itself."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / FILE)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def read(folder: Path) -> Manifest:
    """Read a version folder's manifest.

    Raises:
        ArtefactError: it is missing or not valid, or its format is too old or too new.

    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        form = content.get("format") if isinstance(content, dict) else None
    except (OSError, ValueError) as error:
        msg = f"{path}: the manifest cannot be read ({error}); build the line again"
        raise ArtefactError(msg) from error
    if isinstance(form, int) and form > FORMAT:
        msg = (
            f"{path}: the artefact has format {form}, and this Flawline knows up to {FORMAT}; update Flawline"
        )
        raise ArtefactError(msg)
    if isinstance(form, int) and form < OLDEST:
        msg = (
            f"{path}: the artefact has format {form}, which kept neither weights nor settings; "
            "build the line again"
        )
        raise ArtefactError(msg)
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        msg = f"{path}: not a manifest ({first_fault(error)}); build the line again"
        raise ArtefactError(msg) from error


def checked(folder: Path, manifest: Manifest, name: str) -> Path:
    """Path of one file of an artefact.

    Raises:
        ArtefactError: it is missing or not the one that the build wrote.

    """
    path = folder / name
    if not path.is_file():
        msg = f"{path}: missing; build the line again or roll back to another version"
        raise ArtefactError(msg)
    if sha256(path) != manifest.files.get(name):
        msg = (
            f"{path}: damaged, changed by hand or from another build (SHA-256 differs from {FILE}); "
            "build again or roll back"
        )
        raise ArtefactError(msg)
    return path


def verify(folder: Path) -> Manifest:
    """Read the manifest and compare every file with it.

    Raises:
        ArtefactError: it names the first file that is missing or is not the one the build wrote.

    """
    manifest = read(folder)
    for name in manifest.files:
        checked(folder, manifest, name)
    return manifest


def artefact_key(parts: dict[str, Any]) -> tuple[int, int]:
    """Two non-negative INT32 that stand for `parts` (JSON-serialisable): they tie a graph to its own artefact.

    Not one INT64: OpenVINO computes with 32-bit integers on the CPU.
    """
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1, int.from_bytes(digest[4:8], "big") >> 1
