"""Layout `coco`: boxes in JSON files as COCO has them (Lin et al. 2014).

JSON files with `images`, `annotations` and `categories` lie in annotations/ or beside the pictures. One whose name
holds `train` gives the training split, one whose name holds `val` or `test` the other; where all have other
names, a seed divides them. A picture without annotations is good. `bbox` is left, upper side, width, height.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flawline.data.boxes import Box
from flawline.data.folders import find_pictures, relative_stem
from flawline.data.sample import Sample
from flawline.data.splits import split_by_group
from flawline.data.voc import TRAIN_SHARE, labelled_sample, tell_clipped
from flawline.errors import DataError
from flawline_client.folders import shown

_PARTS = ("images", "annotations", "categories")


def load(root: Path, *, seed: int = 0) -> tuple[Sample, ...]:
    """Read all pictures that the JSON files name.

    A box that reaches over the picture's edge is clipped, and told. A picture that no file names is left out.

    Raises:
        DataError: there is no such file or one cannot be read, a picture is missing, or a box has no area, lies
            outside the picture, or is of a category that the file does not name.

    """
    files = [(path, content) for path in _files(root) if (content := _content(path)) is not None]
    if not files:
        msg = f"{root} is not laid out as coco: no JSON file in it or in annotations/ has {', '.join(_PARTS)}"
        raise DataError(msg)
    pictures = _by_name(root)
    samples: list[Sample] = []
    clipped = 0
    sides = {path: _side(path) for path, _ in files}
    for path, content in files:
        for sample, count in _samples(path, content, pictures):
            group = relative_stem(sample.image, root)
            samples.append(replace(sample, split=sides[path] or "train", group=group))
            clipped += count
    tell_clipped(clipped)
    if set(sides.values()) <= {None}:
        return split_by_group(samples, seed, defect_share=TRAIN_SHARE)
    return tuple(samples)


def _files(root: Path) -> list[Path]:
    folders = [root, *(path for path in sorted(root.iterdir()) if path.name.lower() == "annotations")]
    return [path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.json"))]


def _side(path: Path) -> Any:  # noqa: ANN401 - a Split, or None
    words = re.split(r"[^a-z]+", path.stem.lower())
    joined = " ".join(words)
    if "train" in joined:
        return "train"
    return "test" if "val" in words or "test" in words or "valid" in words else None


def _content(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file with all parts; None of another. Raises DataError where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        msg = f"{shown(path)}: the annotations cannot be read ({error}); repair or remove the file"
        raise DataError(msg) from error
    known = isinstance(content, dict) and all(isinstance(content.get(part), list) for part in _PARTS)
    return content if known else None


def _by_name(root: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in find_pictures(root):
        found.setdefault(path.name, []).append(path)
    return found


def _samples(
    path: Path, content: Mapping[str, Any], pictures: Mapping[str, Sequence[Path]]
) -> Iterator[tuple[Sample, int]]:
    """Make the samples of a file, and count the clipped boxes of each."""
    try:
        names = {each["id"]: " ".join(str(each["name"]).split()) for each in content["categories"]}
        images = {each["id"]: str(each["file_name"]) for each in content["images"]}
        raw = [(each["image_id"], each["category_id"], each["bbox"]) for each in content["annotations"]]
        boxes: dict[Any, list[Box]] = {}
        for number, (image, category, (left, upper, width, height)) in enumerate(raw, 1):
            if category not in names or image not in images:
                msg = (
                    f"{shown(path)}, annotation {number}: it names no category {category} or image {image}; "
                    "correct or remove it"
                )
                raise DataError(msg)
            corners = (float(left), float(upper), float(left) + float(width), float(upper) + float(height))
            boxes.setdefault(image, []).append(Box(names[category], *corners))
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{shown(path)}: an image, category or annotation is incomplete ({error!r}); repair the file"
        raise DataError(msg) from error
    for image, name in images.items():
        yield labelled_sample(_picture(path, name, pictures), boxes.get(image, []), path, name)


def _picture(path: Path, name: str, pictures: Mapping[str, Sequence[Path]]) -> Path:
    """The picture of a name, which may begin with folders. Raises DataError where there is none, or several."""
    wanted = Path(name)
    found = pictures.get(wanted.name, ())
    if len(found) > 1:
        found = [each for each in found if each.parts[-len(wanted.parts) :] == wanted.parts]
    if len(found) != 1:
        how_many = "is missing" if not found else "is there in several folders"
        msg = f"{shown(path)} names {shown(name)}, which {how_many}; restore it, or correct the file"
        raise DataError(msg)
    return found[0]
