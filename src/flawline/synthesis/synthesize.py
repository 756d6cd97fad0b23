"""Write synthetic defects to disk in layout `folder`, resumable, with a manifest and a contact sheet."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flawline.data.sample import Dataset, Sample, masks_of
from flawline.errors import DataError, FlawlineError, RecipeError
from flawline.files import SYNTHESIS, SYNTHESIS_MARK, write_atomically, written_whole
from flawline.progress import track
from flawline.scoring.ignored import Ignored, filled
from flawline.scoring.picture import Pixels, decode
from flawline.synthesis.base import Mask, digest
from flawline.synthesis.contact_sheet import contact_sheet
from flawline.synthesis.method import Material, MethodConfig
from flawline.synthesis.spared import spared
from flawline.training import Budget

MANIFEST = "synthetic.json"
CONTACT_SHEET = "contact_sheet.png"
_SHEET_PICTURES = 32
_FORMAT = 2
"""Raised when the same seed starts to give other pictures or the files change their form."""

Example = tuple[Pixels, Mask, str]
"""A picture with a defect, UINT8 [H, W, 3], its mask, BOOL [H, W], and a title of the normal picture behind it."""


def synthesize_line(
    dataset: Dataset,
    config: MethodConfig,
    count: int,
    out: Path,
    seed: int = 0,
    *,
    device: str = "cpu",
    budget: float | None = None,
    ignored: Ignored | None = None,
) -> Path:
    """Put defects of a method on the normal training pictures of a line, and write them as `write_synthetic` does.

    What the method trains is kept in `out` as well: an interrupted run goes on where it ended, and a finished one
    is not trained again. What cannot be done at all leaves no folder behind.

    Args:
        dataset: its normal training pictures get the defects; masks may come from its labelled ones.
        config: settings of the method.
        count: number of pictures to have in all, at least 1.
        out: folder to write to, made when missing.
        seed: seed of every random choice, 0 or above.
        device: `cpu` or `cuda`, for methods that train or load a model.
        budget: seconds for training; None lets its steps end it.
        ignored: regions of the pictures that are filled and get no defects; None where there are none.

    Returns:
        The folder of the defect pictures.

    Raises:
        RecipeError: a count or seed out of range, a budget for a method that does not train, or as
            `MethodConfig.prepare`.
        DataError: as `write_synthetic`, or there is no normal picture, or one that cannot be read or learnt.

    """
    samples = dataset.train_normals
    if count < 1 or seed < 0:
        msg = f"cannot synthesise {count} pictures from seed {seed}; the count starts at 1 and the seed at 0"
        raise RecipeError(msg)
    if not samples:
        msg = "there is no normal training picture to put defects on; give a data set that has some"
        raise DataError(msg)
    settings = config.model_dump(mode="json", exclude={"method", "device"})
    if config.trainings:
        settings["budget"] = budget
    elif budget is not None:
        msg = f"synthesis method '{config.method}' trains nothing and takes no budget; leave it out, or take 'ddpm'"
        raise RecipeError(msg)
    if config.labelled:
        settings["masks_sha256"] = digest(masks_of(dataset.train_defects))
    identity = {
        "seed": seed,
        "sources": {"count": len(samples), "sha256": _fingerprint(samples)},
        "settings": settings,
    }
    hidden = None if ignored is None else ignored.mask
    if hidden is not None:
        identity["ignored"] = digest([hidden])

    def read(sample: Sample) -> Pixels:
        pixels = sample.read_image()
        return pixels if hidden is None else filled(pixels, hidden)

    material = Material(
        sources=lambda rng: read(samples[rng.integers(len(samples))]),
        learned=lambda: [read(sample) for sample in samples],
        masks=lambda: masks_of(dataset.train_defects),
        seed=seed,
        device=device,
        checkpoint=out,
        budget=Budget(budget, config.trainings),
    )
    claim(out, config.method, identity)
    try:
        synthesizer = config.prepare(material)
    except FlawlineError:
        unclaim(out)
        raise

    def example(number: int) -> Example:
        rng = np.random.default_rng([seed, number])
        base = samples[rng.integers(len(samples))]
        if hidden is None:
            picture, mask = synthesizer(read(base), rng)
        else:
            picture, mask = spared(synthesizer, read(base), hidden, rng)
        return picture, mask, base.title

    return write_synthetic(example, config.method, count, out, identity)


def write_synthetic(
    examples: Callable[[int], Example], method: str, count: int, out: Path, identity: Mapping[str, Any]
) -> Path:
    """Write numbered defect pictures with their masks.

    Written are `out/defect_<method>/NNNN.png` (RGB), `out/masks/defect_<method>/NNNN.png` (0 and 255),
    `out/contact_sheet.png`, and `out/synthetic.json`, which names the normal picture behind each number. Numbers
    already there are kept, and a run that was interrupted or asked for fewer goes on where it ended.

    Args:
        examples: function that makes the picture of a number from 0 on; it depends on the number and on `identity`
            alone.
        method: name of what makes them, as the folders carry it.
        count: number of pictures to have in all, at least 1.
        out: folder to write to, made when missing.
        identity: what the pictures depend on, as JSON holds it, such as seed and settings; another run in `out`
            must have the same.

    Returns:
        The folder of the defect pictures.

    Raises:
        DataError: `out` holds anything else than an earlier run of the same method and identity.

    """
    manifest = claim(out, method, identity)
    titles: dict[str, str] = manifest["pictures"]
    pictures = out / f"defect_{method}"
    masks = out / "masks" / pictures.name
    pictures.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)

    for number in track(range(count), f"Synthesising defects ({method})"):
        name = f"{number:04d}.png"
        if name in titles and (pictures / name).exists() and (masks / name).exists():
            continue
        picture, mask, titles[name] = examples(number)
        _write_png(masks / name, np.where(mask, 255, 0).astype(np.uint8))
        _write_png(pictures / name, picture)
        write_atomically(out / MANIFEST, _json(manifest), over=True)  # an interrupted run knows what it has

    written = sorted((pictures / name for name in titles), key=lambda path: int(path.stem))
    _write_png(out / CONTACT_SHEET, _sheet(written, masks))
    named = {**manifest, "pictures": {p.name: titles[p.name] for p in written}}
    write_atomically(out / MANIFEST, _json(named), over=True)
    return pictures


def claim(out: Path, method: str, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Make `out` the folder of a method's pictures, or find that it already is, before the first one is written.

    Args:
        out: see `write_synthetic`.
        method: see `write_synthetic`.
        identity: see `write_synthetic`.

    Returns:
        Content of the manifest: format, method, identity, and `pictures`, the titles by the names of files.

    Raises:
        DataError: `out` holds anything else.

    """
    wanted = json.loads(
        json.dumps({"format": _FORMAT, "method": method, **identity})
    )  # as it will be read back
    if out.exists() and not out.is_dir():
        msg = f"{out} is a file; give a folder for the synthetic pictures"
        raise DataError(msg)
    manifest = out / MANIFEST
    if manifest.exists():
        found = _read_manifest(manifest)
        difference = _difference({key: found.get(key) for key in wanted}, wanted)
        if difference is not None:
            key, before, now = difference
            msg = (
                f"{out} holds synthetic pictures of another {key.removeprefix('settings.')} ({before}, now {now}); "
                "give another folder or remove this one"
            )
            raise DataError(msg)
        return found
    if out.exists() and any(out.iterdir()):
        msg = f"{out} is not empty and was not written by this command; give a new folder"
        raise DataError(msg)
    out.mkdir(parents=True, exist_ok=True)
    content = {**wanted, "pictures": {}}
    write_atomically(manifest, _json(content))
    return content


def unclaim(out: Path) -> None:
    """Undo `claim` where nothing was made."""
    if [path.name for path in out.iterdir()] == [MANIFEST]:
        (out / MANIFEST).unlink()
        out.rmdir()


def _difference(before: object, now: object, place: str = "") -> tuple[str, object, object] | None:
    """Find the first place in which two contents of JSON differ: its name, and both values there."""
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = [(key, before.get(key), now.get(key)) for key in {**before, **now}]
    elif (
        isinstance(before, list)
        and isinstance(now, list)
        and place
        and len(before) == len(now)
        and any(isinstance(value, dict) for value in before)
    ):
        pairs = [(str(number), *pair) for number, pair in enumerate(zip(before, now, strict=True))]
    else:
        return None if before == now else (place, before, now)
    for key, old, new in pairs:
        found = _difference(old, new, f"{place}.{key}" if place else key)
        if found is not None:
            return found
    return None


def _read_manifest(manifest: Path) -> dict[str, Any]:
    try:
        content = json.loads(manifest.read_text())
        if isinstance(content["pictures"], dict):
            return dict(content)
    except (ValueError, KeyError, TypeError):
        pass
    msg = f"{manifest} is damaged; remove its folder and synthesise again"
    raise DataError(msg)


def _fingerprint(samples: Sequence[Sample]) -> str:
    """SHA-256 over the content of the normal pictures, in order."""
    found = hashlib.sha256()
    for sample in samples:
        try:
            found.update(hashlib.sha256(sample.image.read_bytes()).digest())
        except OSError as error:
            msg = f"{sample.image} cannot be read ({error}); repair or remove the file"
            raise DataError(msg) from error
    return found.hexdigest()


def _sheet(written: Sequence[Path], masks: Path) -> Pixels:
    """Lay out a contact sheet of at most `_SHEET_PICTURES`, evenly spread over the numbers."""
    places = np.unique(
        np.linspace(0, len(written) - 1, min(len(written), _SHEET_PICTURES)).round().astype(int)
    )
    entries: list[tuple[str, Pixels, Mask]] = []
    for place in places:
        path = written[place]
        mask = decode((masks / path.name).read_bytes())[:, :, 0] > 0
        entries.append((path.stem, cast(Pixels, decode(path.read_bytes())), mask))
    return contact_sheet(entries)


def _write_png(path: Path, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Write UINT8 [H, W, 3] RGB or [H, W], whole or not at all, and never over a picture of others."""
    told = PngInfo()
    told.add_text("Software", SYNTHESIS)
    with written_whole(path, over=SYNTHESIS_MARK) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=told, compress_level=1)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
