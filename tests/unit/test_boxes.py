"""Boxes as data sets have them: every layout with boxes, what is mended, and what is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawline.data import GOOD, Sample, load_dataset
from flawline.data.boxes import Box, boxes_of_mask, in_square
from flawline.data.folds import FOLDS_FILE
from flawline.errors import DataError
from flawline.scoring.ignored import Ignored
from flawline.scoring.picture import Geometry

SIDE = 32


def picture(path: Path, width: int = SIDE, height: int = SIDE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.as_posix().encode()))
    Image.fromarray(rng.integers(256, size=(height, width)).astype(np.uint8)).save(path)
    return path


def xml(path: Path, *objects: tuple) -> Path:
    """An annotation; an object is its name and the corners as PASCAL VOC counts them, from 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2 in objects
    )
    path.write_text(f"<annotation>{told}</annotation>")
    return path


def of(spec: str, name: str) -> Sample:
    (sample,) = (s for s in load_dataset(spec).samples if s.image.name == name)
    return sample


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    for number in range(10):
        picture(tmp_path / f"JPEGImages/{number}.png")
        kind = ("crack", "stain")[number % 2]
        xml(tmp_path / f"Annotations/{number}.xml", (kind, 3, 5, 12, 9), (kind, 20, 20, 32, 32))
    return tmp_path


class TestVoc:
    def test_corners_count_from_one_and_hold_the_last_pixel(self, voc: Path) -> None:
        first = of(f"voc:{voc}", "0.png")
        assert first.defect_class == "crack"
        assert first.read_boxes() == (Box("crack", 2, 4, 12, 9), Box("crack", 19, 19, 32, 32))

    def test_a_line_may_be_without_good_pictures(self, voc: Path) -> None:
        dataset = load_dataset(f"voc:{voc}")
        assert not dataset.train_normals
        assert dataset.classes == ("crack", "stain")
        assert (len(dataset.train_defects), len(dataset.test)) == (8, 2)

    def test_the_split_does_not_depend_on_where_the_folder_lies(self, voc: Path, tmp_path: Path) -> None:
        before = [s.image.name for s in load_dataset(f"voc:{voc}").test]
        moved = tmp_path / "elsewhere"
        moved.mkdir()
        for name in ("JPEGImages", "Annotations"):
            (voc / name).rename(moved / name)
        assert [s.image.name for s in load_dataset(f"voc:{moved}").test] == before

    def test_an_annotation_beside_its_picture_is_its_own(self, voc: Path) -> None:
        picture(voc / "more/0.png")
        xml(voc / "more/0.xml", ("dent", 1, 1, 4, 4))
        own = [s for s in load_dataset(f"voc:{voc}").samples if s.image.parent.name == "more"]
        assert own[0].read_boxes() == (Box("dent", 0, 0, 4, 4),)

    def test_no_object_means_good(self, voc: Path) -> None:
        xml(voc / "Annotations/0.xml")
        assert of(f"voc:{voc}", "0.png").defect_class == GOOD

    def test_a_picture_without_annotation_is_left_out_and_told(
        self, voc: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        picture(voc / "JPEGImages/new.png")
        assert len(load_dataset(f"voc:{voc}").samples) == 10
        assert "without an annotation: 1 (JPEGImages/new.png)" in " ".join(capsys.readouterr().err.split())

    def test_a_box_over_the_edge_is_clipped_and_told(
        self, voc: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        xml(voc / "Annotations/0.xml", ("crack", 0, 30, 40, 40))
        assert of(f"voc:{voc}", "0.png").read_boxes() == (Box("crack", 0, 29, 32, 32),)
        assert "clipped to it: 1." in " ".join(capsys.readouterr().err.split())

    @pytest.mark.parametrize(
        ("box", "said"),
        [
            (("crack", 9, 5, 3, 9), "has no area"),
            (("crack", 40, 40, 50, 50), "lies outside the picture of 32x32"),
            (("crack", "", 4, 5, 5), "has no area"),
            (("crack", "left", 4, 5, 5), "cannot be read"),
            ((" ", 2, 4, 5, 5), "has no class"),
        ],
    )
    def test_bad_boxes_are_refused_by_their_file(self, voc: Path, box: tuple, said: str) -> None:
        xml(voc / "Annotations/3.xml", box)
        with pytest.raises(DataError, match=rf"Annotations/3\.xml.*{said}"):
            load_dataset(f"voc:{voc}")

    def test_an_annotation_without_picture_is_refused(self, voc: Path) -> None:
        (voc / "JPEGImages/4.png").unlink()
        with pytest.raises(DataError, match=r"4\.xml annotates no picture"):
            load_dataset(f"voc:{voc}")

    @pytest.mark.parametrize("content", ["<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]><annotation/>'])
    def test_damaged_or_hostile_files_are_refused(self, voc: Path, content: str) -> None:
        (voc / "Annotations/3.xml").write_text(content)
        with pytest.raises(DataError, match=r"3\.xml: the annotation cannot be read"):
            load_dataset(f"voc:{voc}")


class TestFolds:
    @pytest.fixture
    def folds(self, voc: Path) -> Path:
        rows = [
            f"JPEGImages/{n}.png,Annotations/{n}.xml,{('crack', 'stain')[n % 2]},item{n // 2},{n // 2}"
            for n in range(10)
        ]
        (voc / FOLDS_FILE).write_text("\n".join(["image,annotation,class,group,fold", *rows]))
        return voc

    def test_the_named_fold_is_the_test(self, folds: Path) -> None:
        for fold, spec in ((0, f"voc:{folds}"), (3, f"neu_det:{folds},fold=3")):
            dataset = load_dataset(spec)
            assert [s.image.stem for s in dataset.test] == [str(2 * fold), str(2 * fold + 1)]
            assert f"fold {fold} of folds.csv" in dataset.divided

    def test_a_fold_that_is_not_there(self, folds: Path) -> None:
        with pytest.raises(DataError, match=r"has no fold 7.*\(0, 1, 2, 3, 4\)"):
            load_dataset(f"voc:{folds},fold=7")

    def test_a_fold_without_the_file(self, voc: Path) -> None:
        with pytest.raises(DataError, match=r"has no folds\.csv, which ,fold=1 asks for"):
            load_dataset(f"voc:{voc},fold=1")

    def test_an_item_in_two_folds_is_refused(self, folds: Path) -> None:
        text = (folds / FOLDS_FILE).read_text().replace("item0,0", "item4,0")
        (folds / FOLDS_FILE).write_text(text)
        with pytest.raises(DataError, match="group 'item4' lies in train and in test"):
            load_dataset(f"voc:{folds}")

    def test_a_row_that_is_wrong_is_named(self, folds: Path) -> None:
        text = (folds / FOLDS_FILE).read_text()
        (folds / FOLDS_FILE).write_text(text.replace("item1,1", "item1,first", 1))
        with pytest.raises(DataError, match=r"folds\.csv, line 4: fold is 'first'"):
            load_dataset(f"voc:{folds}")


def coco_file(path: Path, names: list[str], box: list[float], category: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names, 5)],
        "categories": [{"id": 1, "name": "hole"}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": category, "bbox": box}],
    }
    path.write_text(json.dumps(content))


class TestCoco:
    def test_files_named_train_and_val_are_the_split(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            picture(tmp_path / f"images/{name}.png")
        coco_file(tmp_path / "annotations/instances_train.json", ["a.png", "b.png"], [2, 3, 10, 5])
        coco_file(tmp_path / "annotations/instances_val.json", ["images/c.png"], [0, 0, 4, 4])
        dataset = load_dataset(f"coco:{tmp_path}")
        told = {s.image.stem: (s.split, s.defect_class, s.read_boxes()) for s in dataset.samples}
        assert told == {
            "a": ("train", "hole", (Box("hole", 2, 3, 12, 8),)),
            "b": ("train", GOOD, ()),
            "c": ("test", "hole", (Box("hole", 0, 0, 4, 4),)),
        }

    @pytest.mark.parametrize(
        ("box", "category", "said"),
        [
            ([2, 3, 0, 5], 1, "has no area"),
            ([2, 3, 4, 5], 9, "annotation 1: it names no category 9"),
            ([2, 3, 4], 1, "is incomplete"),
        ],
    )
    def test_bad_annotations_are_refused_by_their_file(
        self, tmp_path: Path, box: list[float], category: int, said: str
    ) -> None:
        picture(tmp_path / "a.png")
        coco_file(tmp_path / "all.json", ["a.png"], box, category)
        with pytest.raises(DataError, match=rf"all\.json.*{said}"):
            load_dataset(f"coco:{tmp_path}")

    def test_a_picture_that_is_missing(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        coco_file(tmp_path / "all.json", ["b.png"], [2, 3, 4, 5])
        with pytest.raises(DataError, match=r"names b\.png, which is missing"):
            load_dataset(f"coco:{tmp_path}")

    def test_other_json_files_are_none(self, tmp_path: Path) -> None:
        (tmp_path / "notes.json").write_text("[]")
        with pytest.raises(DataError, match="is not laid out as coco"):
            load_dataset(f"coco:{tmp_path}")


def test_gc10_has_its_own_spelling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("1_chongkong", "10_yaozhed", "10_yaozhe", "2_hanfeng")
    for number, name in enumerate(names):
        picture(tmp_path / f"{number + 1}/img_{number}.jpg")
        xml(tmp_path / f"lable/img_{number}.xml", (name, 1, 1, 9, 9), ("d", 1, 1, 9, 9))
    dataset = load_dataset(f"gc10_det:{tmp_path}")
    assert {box.name for s in dataset.samples for box in s.boxes or ()} == {
        "punching_hole",
        "waist_folding",
        "welding_line",
    }
    assert "stray class 'd' that were left out: 4." in " ".join(capsys.readouterr().err.split())
    xml(tmp_path / "lable/img_0.xml", ("11_other", 1, 1, 9, 9))
    with pytest.raises(DataError, match=r"img_0\.xml: '11_other' is no class"):
        load_dataset(f"gc10_det:{tmp_path}")


def test_tianchi_joins_its_names_to_classes(tmp_path: Path) -> None:
    boxes = []
    for number, name in enumerate(("破洞", "水渍", "油渍", "结头", "星跳", "跳花")):
        picture(tmp_path / f"defect_Images/{number}.jpg")
        boxes.append({"name": f"{number}.jpg", "defect_name": name, "bbox": [1.5, 2, 9, 9.5]})
    picture(tmp_path / "normal_Images/good.jpg")
    (tmp_path / "Annotations").mkdir()
    file = tmp_path / "Annotations/anno_train.json"
    file.write_text(json.dumps(boxes), encoding="utf-8")
    classes = {s.image.stem: s.defect_class for s in load_dataset(f"tianchi_fabric:{tmp_path}").samples}
    assert classes == {
        "0": "hole",
        "1": "stain",
        "2": "stain",
        "3": "knot",
        "4": "skip",
        "5": "skip",
        "good": GOOD,
    }
    file.write_text(json.dumps([{**boxes[0], "defect_name": "别的"}]), encoding="utf-8")
    with pytest.raises(DataError, match=r"anno_train\.json: '别的' is no defect of the contest"):
        load_dataset(f"tianchi_fabric:{tmp_path}")


def test_masks_give_boxes_where_none_are_drawn() -> None:
    mask = np.zeros((20, 30), np.bool_)
    mask[2:5, 3:9] = mask[10:16, 20:28] = mask[19, 0] = True
    assert boxes_of_mask(mask, "dent") == (Box("dent", 20, 10, 28, 16), Box("dent", 3, 2, 9, 5))
    speckle = np.zeros((20, 30), np.bool_)
    speckle[4, 4] = True
    assert boxes_of_mask(speckle, "dent") == (Box("dent", 4, 4, 5, 5),)
    assert boxes_of_mask(~mask & False, "dent") == ()


def test_boxes_are_brought_to_the_square_without_what_is_ignored() -> None:
    boxes = (Box("dent", 0, 0, 40, 20), Box("other", 160, 60, 200, 100), Box("hole", 90, 40, 110, 60))
    plain = Geometry.fit(200, 100, 64)
    np.testing.assert_allclose(
        in_square(boxes, plain, ("dent", "hole")),
        [[0, 0, 12.8, 6.4, 0], [51.2, 19.2, 64, 32, -1], [28.8, 12.8, 35.2, 19.2, 1]],
        rtol=1e-6,
    )
    mask = np.zeros((100, 200), np.bool_)
    mask[:, :100] = True
    halved = Geometry.fit(200, 100, 64, Ignored.of(mask, 64))
    assert in_square(boxes, halved, ("dent", "hole"))[:, 4].tolist() == [-1, 1]
    assert in_square((), halved, ("dent",)).shape == (0, 5)


def test_labels_of_boxes_are_part_of_a_data_sets_fingerprint(voc: Path) -> None:
    before = load_dataset(f"voc:{voc}").fingerprint()
    train = load_dataset(f"voc:{voc}").train_defects[0].image.stem
    xml(voc / f"Annotations/{train}.xml", ("crack", 3, 5, 13, 9))
    assert load_dataset(f"voc:{voc}").fingerprint() != before
