"""Layout `tianchi_fabric`: fabric of the Tianchi contest of 2019, with boxes of 20 classes, and good pictures.

defect_Images/, normal_Images/ and Annotations/*.json: a list of boxes with `name` of the picture, `defect_name` in
Chinese and `bbox` as left, upper, right and lower side. The contest joins its 34 names into 20 classes, which get
English names here. A seed divides the set.
"""

import json
from pathlib import Path

from flawline.data.boxes import Box
from flawline.data.folders import find_pictures, require_folder
from flawline.data.sample import Sample
from flawline.data.splits import split_by_group
from flawline.data.voc import TRAIN_SHARE, labelled_sample, tell_clipped
from flawline.errors import DataError
from flawline_client.folders import shown

_NAMES = {
    "hole": "破洞",
    "stain": "水渍 油渍 污渍",
    "three_threads": "三丝",
    "knot": "结头",
    "pattern_skip": "花板跳",
    "centipede": "百脚",
    "nep": "毛粒",
    "coarse_warp": "粗经",
    "loose_warp": "松经",
    "broken_warp": "断经",
    "hanging_warp": "吊经",
    "coarse_weft": "粗维",
    "shrunk_weft": "纬缩",
    "size_spot": "浆斑",
    "warping_knot": "整经结",
    "skip": "星跳 跳花",
    "broken_spandex": "断氨纶",
    "bar": "稀密档 浪纹档 色差档",
    "abrasion": "磨痕 轧痕 修痕 烧毛痕",
    "weave": "死皱 云织 双纬 双经 跳纱 筘路 纬纱不良",
}
CLASSES = {chinese: name for name, listed in _NAMES.items() for chinese in listed.split()}
"""Class of each name of the contest."""


def load(root: Path, *, seed: int = 0) -> tuple[Sample, ...]:
    """Read the set.

    Raises:
        DataError: a folder is missing, the annotations cannot be read, a picture is missing, a defect's name is
            none of the contest's, or a box has no area or lies outside the picture.

    """
    expected = "defect_Images/, normal_Images/ and Annotations/anno_train.json"
    require_folder(root / "defect_Images", "tianchi_fabric", expected, "defect_Images")
    boxes: dict[str, list[Box]] = {}
    source = root / "Annotations"
    for path in sorted(source.glob("*.json")):
        for name, box in _boxes_of(path):
            boxes.setdefault(name, []).append(box)
    pictures = {path.name: path for path in find_pictures(root / "defect_Images")}
    if missing := sorted(set(boxes) - set(pictures)):
        msg = f"{shown(source)} names {shown(missing[0])}, which is not in defect_Images/; restore it"
        raise DataError(msg)
    made = [labelled_sample(pictures[name], found, source, name) for name, found in boxes.items()]
    tell_clipped(sum(count for _, count in made))
    good = find_pictures(root / "normal_Images") if (root / "normal_Images").is_dir() else []
    samples = [
        *(sample for sample, _ in made),
        *(labelled_sample(path, [], source, path.name)[0] for path in good),
    ]
    return split_by_group(samples, seed, defect_share=TRAIN_SHARE)


def _boxes_of(path: Path) -> list[tuple[str, Box]]:
    """Names of pictures and boxes of one file."""
    found = []
    try:
        for each in json.loads(path.read_text(encoding="utf-8-sig")):
            name = str(each["defect_name"]).strip()
            if name not in CLASSES:
                msg = f"{shown(path)}: '{shown(name)}' is no defect of the contest; correct it"
                raise DataError(msg)
            left, upper, right, lower = (float(value) for value in each["bbox"])
            found.append((str(each["name"]), Box(CLASSES[name], left, upper, right, lower)))
    except (OSError, KeyError, TypeError, ValueError) as error:
        msg = f"{shown(path)}: the annotations cannot be read ({error!r}); repair the file"
        raise DataError(msg) from error
    return found
