"""split.csv, seeded splits, and what `load_dataset` says about specs and folders it cannot use."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawline.data import GOOD, Sample, load_dataset
from flawline.data.folders import class_name
from flawline.data.splits import read_split, split_by_group, write_split
from flawline.errors import DataError

HEADER = "image,mask,class,group,split\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four pictures and one mask, without a layout of their own."""
    for value, name in enumerate(("a.png", "b.png", "c.png", "d.png", "d_mask.png"), start=251):
        pixels = np.full((16, 16), value, dtype=np.uint8)
        pixels[:8] = 0 if "mask" in name else value
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def write(root: Path, rows: str, header: str = HEADER) -> None:
    (root / "split.csv").write_text(header + rows, encoding="utf-8-sig")


class TestSplitFile:
    @pytest.mark.parametrize("layout", ["folder", "mvtec_ad", "visa", "kolektorsdd2", "magnetic_tile"])
    def test_wins_in_every_layout(self, root: Path, layout: str) -> None:
        write(root, "a.png,,Free,1,train\nb.png,d_mask.png,OK,2,test\nd.png,d_mask.png,hole,3,test\n")
        dataset = load_dataset(f"{layout}:{root}")
        assert dataset.samples == (
            Sample(root / "a.png", GOOD, None, "1", "train"),
            Sample(root / "b.png", GOOD, None, "2", "test"),
            Sample(root / "d.png", "hole", root / "d_mask.png", "3", "test"),
        )

    def test_is_given_back_as_written(self, root: Path) -> None:
        samples = (
            Sample(root / "a.png", GOOD, None, "x, y", "train"),
            Sample(root / "d.png", 'a "hole"', root / "d_mask.png", "3", "test"),
        )
        write_split(root, samples)
        assert read_split(root) == samples

    def test_a_picture_without_group_stands_alone(self, root: Path) -> None:
        write(root, "a.png,,good,,train\nb.png,,good,,test\n")
        assert [s.group for s in read_split(root)] == ["a.png", "b.png"]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("e.png,,good,1,train", r"line 3: .*e\.png does not exist"),
            ("d.png,e_mask.png,hole,1,train", r"line 3: .*e_mask\.png does not exist"),
            ("b.png,,good,1,val", "line 3: split is 'val'; write train or test"),
            ("b.png,,,1,train", "line 3: image or class is empty"),
            ("../b.png,,good,1,train", r"line 3: \.\./b\.png lies outside"),
            ("a.png,,good,1,train", r"line 3: a\.png is listed twice"),
            ("b.png,,good", "line 3: split is ''"),
        ],
    )
    def test_names_the_line_that_is_wrong(self, root: Path, row: str, message: str) -> None:
        write(root, f"a.png,,good,1,train\n{row}\n")
        with pytest.raises(DataError, match=message):
            load_dataset(f"folder:{root}")

    def test_names_a_missing_column(self, root: Path) -> None:
        write(root, "a.png,good\n", header="image,class\n")
        with pytest.raises(DataError, match="no column mask, group, split"):
            load_dataset(f"folder:{root}")

    @pytest.mark.parametrize(
        ("change", "encoding"),
        [
            pytest.param(lambda text: text, encoding, id=encoding)
            for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252")
        ]
        + [
            pytest.param(lambda text: text.replace(",", ";"), "utf-8", id="semicolons"),
            pytest.param(lambda text: text.replace(",", "\t"), "utf-8", id="tabs"),
            pytest.param(lambda text: text.replace(",", " | "), "utf-8", id="bars"),
            pytest.param(lambda text: "sep=;\n" + text.replace(",", ";"), "utf-8", id="Excel's line"),
            pytest.param(lambda text: text.replace("\n", "\r\n"), "utf-8", id="CRLF"),
            pytest.param(lambda text: text.replace("\n", "\r"), "utf-8", id="old Mac"),
            pytest.param(
                lambda text: text.replace("Mask,Class", "MASK,class").replace("Train", "TRAIN"),
                "utf-8",
                id="case",
            ),
            pytest.param(lambda text: text.replace(",", " , "), "utf-8", id="spaces"),
            pytest.param(
                lambda text: text.replace("\n", ",,\n") + ",,,,,,\n\n  \n", "utf-8", id="empty cells"
            ),
            pytest.param(lambda text: "\n\n" + text, "utf-8", id="empty lines above"),
            pytest.param(
                lambda text: text.replace(",", '","').replace("\n", '"\n"').join(('"', '"'))[:-3],
                "utf-8",
                id="quotes",
            ),
            pytest.param(lambda text: text.replace("/", "\\"), "utf-8", id="backslashes"),
            pytest.param(lambda text: text.replace("\nF", "\n./F"), "utf-8", id="from here"),
            pytest.param(lambda text: text.rstrip(), "utf-8", id="no end"),
            pytest.param(
                lambda text: (
                    text.replace("ge,M", "ge,Note,M")
                    .replace("B.png,", "B.png,x,")
                    .replace("C.png,", "C.png,,")
                ),
                "utf-8",
                id="column",
            ),
        ],
    )
    def test_is_read_as_spreadsheets_and_people_leave_it(
        self, tmp_path: Path, change: Callable[[str], str], encoding: str
    ) -> None:
        text = "Image,Mask,Class,Group,Split\nFür/A B.png,,Good,Ä 1,Train\nFür/C.png,Für/M.png,Loch,,Test\n"
        (tmp_path / "Für").mkdir()
        for value, name in enumerate(("A B.png", "C.png", "M.png")):
            Image.fromarray(np.full((16, 16), value, dtype=np.uint8)).save(tmp_path / "Für" / name)
        (tmp_path / "split.csv").write_bytes(change(text).encode(encoding))
        here = tmp_path / "Für"
        assert read_split(tmp_path) == (
            Sample(here / "A B.png", GOOD, None, "Ä 1", "train"),
            Sample(here / "C.png", "Loch", here / "M.png", "Für/C.png", "test"),
        )

    def test_names_are_found_however_accents_and_bytes_are_written(self, tmp_path: Path) -> None:
        names = (unicodedata.normalize("NFD", "gr\xfcn.png"), os.fsdecode(b"br\xfccke.png"))
        for value, name in enumerate(names):
            Image.fromarray(np.full((16, 16), value, dtype=np.uint8)).save(tmp_path / name)
        write(tmp_path, "gr\xfcn.png,,good,,train\nbr\xfccke.png,,good,,test\n")
        assert [sample.image for sample in read_split(tmp_path)] == [tmp_path / name for name in names]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (f"{HEADER}a.png,,good,1,train\n\n\nb.png,,good,1,val\n", "line 5: split is 'val'"),
            (
                f'{HEADER}a.png,,good,1,train\n"b.png,,good,1,train\nc.png,,good,1,test\n',
                "line 3: a quote is not",
            ),
            (
                f"{HEADER}a.png,,good,1,train\nx, y.png,,good,1,train\n",
                "line 3: .*has 6 cells and the header 5",
            ),
            (
                f"{HEADER}a.png,,good,1,train\n./a.png,,good,1,train\n",
                "line 3: .* is listed twice, also in line 2",
            ),
            (f"{HEADER}C:\\data\\a.png,,good,1,train\n", "line 2: .* lies outside the folder"),
            (f"{HEADER}..\\a.png,,good,1,train\n", "line 2: .* lies outside the folder"),
            (f"{HEADER}folder,,good,1,train\n", "line 2: .*folder is no file"),
            ("image,mask,class,split,group,split\n", "line 1: has column split twice"),
            ("\nBild;Maske;Klasse\n", "line 2: has no column image, mask, class, group, split; it needs"),
            (HEADER, "split.csv lists no picture"),
            ("", "has no column image"),
        ],
    )
    def test_faults_are_named_with_their_line(self, root: Path, text: str, message: str) -> None:
        (root / "folder").mkdir()
        (root / "split.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            load_dataset(f"folder:{root}")

    def test_an_absolute_path_into_the_folder_is_understood(self, root: Path) -> None:
        write(root, f"{root}/a.png,,good,1,train\n")
        assert read_split(root) == (Sample(root / "a.png", GOOD, None, "1", "train"),)

    def test_refuses_a_group_on_both_sides(self, root: Path) -> None:
        write(root, "a.png,,good,tile 7,train\nb.png,,good,tile 7,test\n")
        with pytest.raises(DataError, match=r"group 'tile 7' lies in train and in test"):
            load_dataset(f"folder:{root}")

    def test_refuses_a_train_split_without_normals(self, root: Path) -> None:
        write(root, "a.png,,good,1,test\nd.png,d_mask.png,hole,2,train\n")
        with pytest.raises(DataError, match="no normal pictures to train on"):
            load_dataset(f"folder:{root}")


def drawn(classes_of_groups: list[list[str]], seed: int = 0) -> tuple[Sample, ...]:
    samples = [
        Sample(Path(f"{group}-{index}.png"), name, None, f"g{group}", "test")
        for group, names in enumerate(classes_of_groups)
        for index, name in enumerate(names)
    ]
    return split_by_group(samples, seed)


class TestSplitByGroup:
    def test_shares_count_pictures_and_groups_stay_whole(self) -> None:
        samples = drawn([[GOOD] * (1 + group % 5) for group in range(60)] + [["dent"] * 2] * 20)
        counts = Counter((s.defect_class, s.split) for s in samples)
        assert counts[GOOD, "train"] == 108  # of 180
        assert counts["dent", "train"] == 8  # of 40
        assert all(len({s.split for s in samples if s.group == f"g{group}"}) == 1 for group in range(80))

    def test_a_group_with_a_defect_counts_as_that_defect(self) -> None:
        samples = drawn([[GOOD]] * 10 + [[GOOD, "scratch"]] * 10)
        mixed = [s.split for s in samples if s.defect_class == "scratch"]
        assert (mixed.count("train"), mixed.count("test")) == (2, 8)

    def test_two_normal_pictures_are_one_on_each_side(self) -> None:
        assert sorted(s.split for s in drawn([[GOOD], [GOOD]])) == ["test", "train"]

    def test_is_decided_by_the_seed_alone(self) -> None:
        assert drawn([[GOOD]] * 20, seed=3) == drawn([[GOOD]] * 20, seed=3)
        assert drawn([[GOOD]] * 20, seed=3) != drawn([[GOOD]] * 20, seed=4)


@pytest.mark.parametrize("name", ["good", "OK", " Normal ", "free", "defect-free", "No Defect"])
def test_names_for_normal(name: str) -> None:
    assert class_name(name) == GOOD


def test_other_names_stay() -> None:
    assert class_name(" Poke ") == "Poke"


class TestSpec:
    @pytest.mark.parametrize("spec", ["mvtec:/data", "/data/mine", "folder", "folder:", ""])
    def test_unknown_layout_lists_the_known_ones(self, spec: str) -> None:
        with pytest.raises(DataError, match=r"write LAYOUT:PATH.*surfaces, folder, mvtec_ad.*magnetic_tile"):
            load_dataset(spec)

    def test_missing_path_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nowhere is not a folder"):
            load_dataset(f"folder:{tmp_path / 'nowhere'}")

    @pytest.mark.parametrize("layout", ["folder", "kolektorsdd", "magnetic_tile"])
    def test_empty_folder_is_named(self, tmp_path: Path, layout: str) -> None:
        with pytest.raises(DataError, match=f"{tmp_path.name} holds no pictures where layout {layout}"):
            load_dataset(f"{layout}:{tmp_path}")
