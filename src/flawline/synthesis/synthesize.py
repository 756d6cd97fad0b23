"""Write synthetic defects to disk in layout `folder`, resumable, with a manifest and a contact sheet."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flawline.data.sample import Sample
from flawline.errors import DataError, RecipeError
from flawline.files import write_atomically, written_whole
from flawline.progress import track
from flawline.scoring.picture import Pixels, decode
from flawline.synthesis.contact_sheet import contact_sheet
from flawline.synthesis.plain import Mask, Synthesizer
from flawline.synthesis.registry import get_synthesizer

MANIFEST = "synthetic.json"
CONTACT_SHEET = "contact_sheet.png"
_SHEET_PICTURES = 32
_FORMAT = 1
"""Raised when the same seed starts to give other pictures or the files change their form."""


def write_synthetic(
    samples: Sequence[Sample],
    method: str | Synthesizer,
    count: int,
    out: Path,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Make `count` defect pictures from normal ones and write them with their masks.

    Written are `out/defect_<method>/NNNN.png` (RGB), `out/masks/defect_<method>/NNNN.png` (0 and 255),
    `out/contact_sheet.png` and last `out/synthetic.json`, which names the normal picture behind each number.
    Number n depends only on `samples`, `method`, `seed` and n: numbers already there are kept, and a run that
    was interrupted or asked for fewer goes on where it ended.

    Args:
        samples: normal training pictures; each is also a source of material for the others.
        method: a name `get_synthesizer` knows, which then draws its sources from `samples`, or a synthesizer.
        count: pictures to have in all, at least 1.
        out: folder, made when missing.
        seed: 0 or above.
        settings: of the method, as JSON holds them, where it has any; another run in `out` must have the same.

    Returns:
        The folder of the defect pictures.

    Raises:
        RecipeError: an unknown method, or a count or seed out of range.
        DataError: no normal picture, a defect among them, one that cannot be read, or an `out` that holds
            anything else than an earlier run with the same method, settings, seed and pictures.

    """
    check_request(samples, count, seed)
    synthesizer = get_synthesizer(method, drawing_from(samples)) if isinstance(method, str) else method
    identity = claim(samples, synthesizer.name, out, seed, settings)
    pictures = out / f"defect_{synthesizer.name}"
    masks = out / "masks" / pictures.name
    pictures.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)

    for number in track(range(count), f"Synthesising defects ({synthesizer.name})"):
        name = f"{number:04d}.png"
        if (pictures / name).exists() and (masks / name).exists():
            continue
        rng = np.random.default_rng([seed, number])
        picture, mask = synthesizer(_base(samples, rng).read_image(), rng)
        _write_png(masks / name, np.where(mask, 255, 0).astype(np.uint8))
        _write_png(pictures / name, picture[:, :, ::-1])

    written = sorted(pictures.glob("*.png"), key=lambda path: int(path.stem))
    _write_png(out / CONTACT_SHEET, _sheet(written, masks)[:, :, ::-1])
    made_from = {
        path.name: _title(_base(samples, np.random.default_rng([seed, int(path.stem)]))) for path in written
    }
    write_atomically(out / MANIFEST, _json({**identity, "pictures": made_from}))
    return pictures


def drawing_from(samples: Sequence[Sample]) -> Callable[[np.random.Generator], Pixels]:
    """Sources of a synthesizer: a function that reads any of `samples`, UINT8 [H, W, 3]."""

    def any_sample(rng: np.random.Generator) -> Pixels:
        return samples[rng.integers(len(samples))].read_image()

    return any_sample


def check_request(samples: Sequence[Sample], count: int, seed: int) -> None:
    """Raise RecipeError or DataError for what `write_synthetic` refuses before it looks at files."""
    if count < 1 or seed < 0:
        msg = f"cannot synthesise {count} pictures from seed {seed}; the count starts at 1 and the seed at 0"
        raise RecipeError(msg)
    if not samples:
        msg = "there is no normal training picture to put defects on; give a data set that has some"
        raise DataError(msg)
    for sample in samples:
        if sample.is_defect:
            msg = f"{sample.image} is labelled {sample.defect_class}; synthetic defects go on normal pictures only"
            raise DataError(msg)


def _base(samples: Sequence[Sample], rng: np.random.Generator) -> Sample:
    """Choose the normal picture under the defect: the first draw of every number."""
    return samples[rng.integers(len(samples))]


def _title(sample: Sample) -> str:
    return f"{sample.image.parent.name}/{sample.image.name}"


def _fingerprint(samples: Sequence[Sample]) -> str:
    """SHA-256 over the content of the normal pictures, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        try:
            digest.update(hashlib.sha256(sample.image.read_bytes()).digest())
        except OSError as error:
            msg = f"{sample.image} cannot be read ({error}); repair or remove the file"
            raise DataError(msg) from error
    return digest.hexdigest()


def claim(
    samples: Sequence[Sample], method: str, out: Path, seed: int, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Make `out` ours, or find that it already is, before the first picture is written.

    Returns:
        What the pictures there depend on, as the manifest keeps it.

    Raises:
        DataError: `out` holds anything else, or a picture cannot be read.

    """
    identity: dict[str, Any] = {
        "format": _FORMAT,
        "method": method,
        "seed": seed,
        "sources": {"count": len(samples), "sha256": _fingerprint(samples)},
    }
    if settings is not None:
        identity["settings"] = json.loads(json.dumps(settings))  # as it will be read back
    if out.exists() and not out.is_dir():
        msg = f"{out} is a file; give a folder for the synthetic pictures"
        raise DataError(msg)
    manifest = out / MANIFEST
    if manifest.exists():
        found = _read_identity(manifest, identity)
        differing = [key for key, value in identity.items() if found[key] != value]
        if differing:
            key, before, now = differing[0], found[differing[0]], identity[differing[0]]
            if key == "settings":
                before = before or {}
                key = next(name for name in {**before, **now} if before.get(name) != now.get(name))
                before, now = before.get(key), now.get(key)
            msg = (
                f"{out} holds synthetic pictures of another {key} ({before}, now {now}); "
                "give another folder or remove this one"
            )
            raise DataError(msg)
        return identity
    if out.exists() and any(out.iterdir()):
        msg = f"{out} is not empty and was not written by this command; give a new folder"
        raise DataError(msg)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(manifest, _json({**identity, "pictures": {}}))
    return identity


def _read_identity(manifest: Path, identity: dict[str, Any]) -> dict[str, Any]:
    try:
        content = json.loads(manifest.read_text())
        return {key: content.get(key) if key == "settings" else content[key] for key in identity}
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{manifest} is damaged; remove its folder and synthesise again"
        raise DataError(msg) from error


def _sheet(written: Sequence[Path], masks: Path) -> Pixels:
    """Lay out a contact sheet of at most `_SHEET_PICTURES`, evenly spread over the numbers."""
    places = np.unique(
        np.linspace(0, len(written) - 1, min(len(written), _SHEET_PICTURES)).round().astype(int)
    )
    entries: list[tuple[str, Pixels, Mask]] = []
    for place in places:
        path = written[place]
        mask = decode((masks / path.name).read_bytes())[:, :, 0] > 0
        entries.append((path.stem, decode(path.read_bytes()), mask))
    return contact_sheet(entries)


def _write_png(path: Path, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Write a whole file or nothing: its name appears only when the content is complete."""
    _, content = cv2.imencode(".png", pixels)
    with written_whole(path) as temporary:
        temporary.write_bytes(content.tobytes())


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
