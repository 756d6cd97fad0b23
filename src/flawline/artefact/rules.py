"""Settings, calibration and ignored regions of an artefact: what turns findings into a verdict, as files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from flawline.artefact.manifest import Manifest, checked
from flawline.errors import ArtefactError, first_fault
from flawline.scoring.calibration import Calibration, Precision
from flawline.scoring.ignored import Ignored, read_mask
from flawline.scoring.picture import Geometry
from flawline.scoring.settings import LineSettings, PartSettings

SETTINGS = "settings.json"
CALIBRATION = "calibration.safetensors"
IGNORED = "ignore.png"
"""Mask of the regions that are not judged, white where ignored; a line without such regions has none."""


@dataclass(frozen=True)
class Rules:
    """How a line decides.

    Attributes:
        settings: constants of its scoring.
        calibration: what it knows of normal scores.
        ignored: regions of the pictures that are not judged; None where there are none.

    """

    settings: LineSettings
    calibration: Calibration
    ignored: Ignored | None = None

    def save(self, folder: Path) -> None:
        """Write the files into the folder of an artefact that is not published yet."""
        (folder / SETTINGS).write_text(self.settings.model_dump_json(indent=2) + "\n", encoding="utf-8")
        scores, peaks = self.calibration.scores, self.calibration.peaks
        write_tensors(folder / CALIBRATION, {"scores": scores, "peaks": peaks})
        if self.ignored is not None:
            (folder / IGNORED).write_bytes(self.ignored.content)

    @classmethod
    def load(cls, folder: Path, manifest: Manifest) -> Self:
        """Read the files of a published artefact.

        Raises:
            ArtefactError: a file is missing, damaged or changed.

        """
        path = checked(folder, manifest, SETTINGS)
        facts = manifest.calibration
        try:
            settings = LineSettings.model_validate_json(path.read_text(encoding="utf-8"))
            path = checked(folder, manifest, CALIBRATION)
            kept = load_file(path)
            calibration = Calibration(
                method=facts.method,
                scores=kept["scores"],
                peaks=kept["peaks"],
                asked_false_alarm=facts.asked_false_alarm,
                false_alarm=facts.false_alarm,
                pixel_threshold=facts.pixel_threshold,
                asked_look_again=facts.asked_look_again,
                look_again=facts.look_again,
                worth=facts.worth,
                precision=None if facts.precision is None else Precision(**facts.precision.model_dump()),
            )
        except (OSError, KeyError, ValidationError, SafetensorError) as error:
            reason = first_fault(error) if isinstance(error, ValidationError) else error
            msg = f"{path}: cannot be read ({reason}); build the line again or roll back"
            raise ArtefactError(msg) from error
        ignored = None
        if IGNORED in manifest.files:
            ignored = Ignored.of(read_mask(checked(folder, manifest, IGNORED)), manifest.size)
        return cls(settings, calibration, ignored)

    def place(self, width: int, height: int) -> Geometry:
        """Say where a picture lies in the model's plane; see LineSettings.place."""
        return self.settings.place(width, height, self.ignored)

    def part_of(self, stage: str, manifest: Manifest) -> PartSettings:
        """Settings of the part whose outputs go through a shared stage.

        Raises:
            ArtefactError: the line has no such part.

        """
        for part, facts in zip(self.settings.parts, manifest.parts, strict=True):
            if facts.stage == stage:
                return part
        msg = f"line '{manifest.line}' version {manifest.version} has no part that stage '{stage}' serves"
        raise ArtefactError(msg)


def write_tensors(path: Path, tensors: dict[str, NDArray[Any]]) -> None:
    """Write numpy arrays as safetensors that other users may read: a container's server is another user."""
    save_file(tensors, path)
    path.chmod(0o644)
