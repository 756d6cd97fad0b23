"""Every picture in a folder is used, or it is said why it is not."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawline.data import Dataset, Sample, copies, load_dataset, load_holdout
from flawline.errors import DataError
from flawline.jobs.evaluate import check_holdout
from flawline.jobs.fit import check_normals
from flawline.recipe import Recipe
from flawline_client.folders import search, shown

SIDE = 16


def picture(path: Path, number: int, **options: object) -> Path:
    """The picture of a number: equal numbers give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six good pictures and two scratches in layout folder."""
    place = tmp_path / "tiles"
    for number in range(6):
        picture(place / f"good/{number}.png", number)
    for number in range(2):
        picture(place / f"defect_scratch/{number}.png", 100 + number)
    return place


def load(root: Path) -> Dataset:
    return load_dataset(f"folder:{root}")


def names(dataset: Dataset) -> list[str]:
    return [sample.image.relative_to(dataset.root).as_posix() for sample in dataset.samples]


class TestSearch:
    def test_links_to_folders_are_followed_and_none_is_endless(self, root: Path, tmp_path: Path) -> None:
        picture(tmp_path / "elsewhere/batch/7.png", 7)
        (tmp_path / "elsewhere/batch/round").symlink_to(tmp_path / "elsewhere")
        (root / "good/a_link").symlink_to(tmp_path / "elsewhere/batch")
        (root / "good/up").symlink_to(root)
        (root / "good/gone").symlink_to(tmp_path / "gone")
        dataset = load(root)
        assert len(dataset.samples) == 9
        assert "good/a_link/7.png" in names(dataset)
        assert [(each.path.name, each.why) for each in dataset.left_out] == [
            ("gone", "links that lead nowhere"),
            ("up", "links that lead back to a folder above them"),
        ]

    def test_a_folder_keeps_its_own_path_where_a_link_leads_to_it(self, tmp_path: Path) -> None:
        picture(tmp_path / "z/1.png", 1)
        (tmp_path / "a").symlink_to(tmp_path / "z")
        assert search(tmp_path).pictures == (tmp_path / "z/1.png",)

    @pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPG", "dib", "apng", "TIFF"])
    def test_every_name_of_a_format_that_is_read(self, root: Path, suffix: str) -> None:
        kind = {"dib": "BMP", "apng": "PNG", "TIFF": "TIFF"}.get(suffix, "JPEG")
        picture(root / f"good/x.{suffix}", 9, format=kind)
        sample = next(sample for sample in load(root).samples if sample.image.stem == "x")
        assert sample.read_image().shape == (SIDE, SIDE, 3)

    def test_other_formats_are_counted_and_named(
        self, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("a.webp", "b.jp2", "c.NPY", "d.cr2", "notes.txt", "Thumbs.db"):
            (root / "good" / name).write_bytes(b"x")
        assert len(load(root).samples) == 8
        assert capsys.readouterr().err == (
            "Pictures of folder:tiles: 8 used (6 good, 2 with defects), 4 left out. "
            "format not read: 4 (good/a.webp, good/b.jp2, …).\n"
        )

    def test_pictures_of_another_name_are_said(self, root: Path) -> None:
        picture(root / "good/9.png", 9).rename(root / "good/IMG_0009")
        picture(root / "good/8.jpg", 8).rename(root / "good/8.jpg.bak")
        picture(root / "good/7.webp", 7).rename(root / "good/7.download")
        (root / "good/notes").write_text("good")
        dataset = load(root)
        assert len(dataset.samples) == 8
        assert [each.why for each in dataset.left_out] == ["pictures by content, not by suffix"] * 3

    @pytest.mark.parametrize(
        "place",
        [
            ".ipynb_checkpoints",
            "deep/__MACOSX",
            "@eaDir/1.png",
            ".thumbnails/large",
            "#recycle",
            "$RECYCLE.BIN",
        ],
    )
    def test_what_tools_made_is_no_picture(self, root: Path, place: str) -> None:
        picture(root / "good" / place / "001-checkpoint.png", 9)
        dataset = load(root)
        assert len(dataset.samples) == 8
        assert [each.why for each in dataset.left_out] == ["hidden or made by tools"]

    def test_a_folder_of_tools_beside_good_is_not_refused(self, root: Path) -> None:
        (root / "@eaDir").mkdir()
        (root / ".git").mkdir()
        assert load(root).left_out == ()

    def test_a_hidden_folder_above_the_data_hides_nothing(self, tmp_path: Path) -> None:
        picture(tmp_path / ".cache/tiles/good/1.png", 1)
        assert search(tmp_path / ".cache/tiles").pictures

    def test_pictures_beside_good_are_said(self, root: Path) -> None:
        picture(root / "loose.png", 9)
        (left_out,) = load(root).left_out
        assert (left_out.path.name, left_out.why) == ("loose.png", "in no folder that the layout reads")

    def test_where_all_are_left_out_the_error_says_so(self, tmp_path: Path) -> None:
        picture(tmp_path / "1.png", 1)
        with pytest.raises(
            DataError, match=r"holds no pictures where .* leaves out: in no folder .* 1 \(1\.png\)"
        ):
            load(tmp_path)

    def test_pipes_are_named(self, root: Path) -> None:
        os.mkfifo(root / "good/x.png")
        (left_out,) = load(root).left_out
        assert (left_out.path.name, left_out.why) == ("x.png", "pipes, sockets or devices")

    def test_a_folder_that_cannot_be_read_is_named(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        locked, iterdir = root / "good/locked", Path.iterdir
        locked.mkdir()

        def refuse(path: Path) -> Iterator[Path]:
            if path == locked:
                raise PermissionError(13, "Permission denied", str(path))
            return iterdir(path)

        monkeypatch.setattr(Path, "iterdir", refuse)
        with pytest.raises(DataError, match=r"good/locked cannot be read \(Permission denied\); mend"):
            load(root)


class TestCopies:
    def test_copies_of_one_side_count_once(self, root: Path) -> None:
        before = load(root)
        for number in range(6):
            shutil.copy(root / f"good/{number}.png", root / f"good/copy of {number}.png")
        os.link(root / "good/0.png", root / "good/x.png")
        (root / "good/y.png").symlink_to(root / "good/0.png")
        dataset = load(root)
        assert dataset.samples == before.samples
        assert [each.why for each in dataset.left_out] == ["exact copies of others"] * 8

    @pytest.mark.parametrize("link", [False, True])
    def test_a_copy_on_the_other_side_is_refused_with_both_names(self, root: Path, link: bool) -> None:
        for side in ("train", "test"):
            shutil.copytree(root / "good", root.parent / "sides" / side / "good")
        for number in (0, 1, 2):
            (root.parent / f"sides/test/good/{number}.png").unlink()
            (root.parent / f"sides/train/good/{number + 3}.png").unlink()
        place = root.parent / "sides"
        assert len(load(place).samples) == 6
        if link:
            (place / "test/good/x.png").symlink_to(place / "train/good/1.png")
        else:
            shutil.copy(place / "train/good/1.png", place / "test/good/x.png")
        with pytest.raises(
            DataError, match=r"train/good/1\.png and .*test/good/x\.png are the same picture, in tr"
        ):
            load(place)

    def test_one_picture_cannot_be_good_and_defective(self, root: Path) -> None:
        shutil.copy(root / "good/3.png", root / "defect_scratch/x.png")
        with pytest.raises(
            DataError, match=r"defect_scratch/x\.png and .*good/3\.png are .* good and defective"
        ):
            load(root)

    def test_one_picture_may_show_two_defects_and_lies_on_one_side(self, root: Path) -> None:
        shutil.copytree(root / "defect_scratch", root / "defect_dent")
        dataset = load(root)
        sides = {(sample.image.name, sample.split) for sample in dataset.samples if sample.is_defect}
        assert len(dataset.samples) == 10
        assert len(sides) == 2

    def test_copies_that_are_one_item_stay(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copy(root / "good/0.png", root / "good/x.png")
        rows = [f"good/{name}.png,,good,{item},train" for name, item in ((0, "a"), ("x", "a"), (1, ""))]
        (root / "split.csv").write_text("\n".join(["image,mask,class,group,split", *rows]))
        assert len(load(root).samples) == 3
        assert (
            "Exact copies among those used, as one item each or as defects of two classes: 1."
            in capsys.readouterr().err
        )

    def test_few_files_are_read_whole(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[Path] = []
        content = copies._content
        monkeypatch.setattr(copies, "_content", lambda path: read.append(path) or content(path))
        (root / "good/long.png").write_bytes(bytes(40_000) + b"1" + bytes(40_000))
        (root / "good/other.png").write_bytes(bytes(40_001) + b"2" + bytes(39_999))
        shutil.copy(root / "good/4.png", root / "good/x.png")
        assert copies.alike(sorted((root / "good").iterdir())) == [[root / "good/4.png", root / "good/x.png"]]
        assert read == [root / "good/4.png", root / "good/x.png"]


class TestSplitFile:
    def test_pictures_that_it_does_not_list_are_said(self, root: Path) -> None:
        picture(root / "masks/0.png", 200)
        rows = "image,mask,class,group,split\ngood/0.png,masks/0.png,good,,train\ngood/1.png,,good,,test\n"
        (root / "split.csv").write_text(rows)
        assert [each.why for each in load(root).left_out] == ["not listed in split.csv"] * 6


class TestPublicLayouts:
    def test_masks_of_good_pictures_are_not_left_out(self, tmp_path: Path) -> None:
        for number in range(4):
            picture(tmp_path / f"kos/Part{number}.jpg", number)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[:4] = 255 * (number == 3)
            Image.fromarray(mask).save(tmp_path / f"kos/Part{number}_label.bmp")
        assert load_dataset(f"kolektorsdd:{tmp_path}").left_out == ()


class TestHoldout:
    def test_says_what_is_used(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (root / "good/a.webp").write_bytes(b"x")
        shutil.copy(root / "good/4.png", root / "good/x.png")
        assert len(load_holdout(str(root))) == 6
        assert capsys.readouterr().err == (
            "Pictures of the hold-out tiles: 6 used (6 good, 0 with defects), 2 left out. "
            "format not read: 1 (good/a.webp); exact copies of others: 1 (good/x.png).\n"
        )

    def test_a_copy_of_the_line_is_named_with_its_original(self, root: Path, tmp_path: Path) -> None:
        dataset = load(root)
        later = Path(shutil.copy(root / "good/2.png", tmp_path / "renamed.png"))
        holdout = (Sample(later, "good", None, "x", "test"),)
        with pytest.raises(
            DataError, match=r"1 of the 1 .*renamed\.png is the same picture as .*good/2\.png"
        ):
            check_holdout(dataset, holdout, Recipe())


def test_a_path_is_shown_as_text_that_can_be_printed() -> None:
    assert shown(Path(os.fsdecode(b"gr\xfcn\n.png"))) == r"gr\xfcn\n.png"
    assert shown("grün 产品.png") == "grün 产品.png"


@pytest.mark.parametrize("copies", [0, 3])
def test_too_few_say_how_many_there_were_and_what_divided_them(root: Path, copies: int) -> None:
    for number in range(6, 10):
        picture(root / f"good/{number}.png", number)
    for number in range(copies):
        shutil.copy(root / f"good/{number}.png", root / f"good/copy{number}.png")
    told = "Of its 10 good pictures, 6 are for training and 4 for testing, by the draw of a split, which gives 60 %"
    with pytest.raises(
        DataError, match=r"has 6 normal training pictures; at least 10 are needed to learn"
    ) as few:
        check_normals(load(root), 0.01)
    assert told in str(few.value)
    assert ("Exact copies that were left out: 3." in str(few.value)) == bool(copies)
    rows = [f"good/{number}.png,,good,,{'test' if number else 'train'}" for number in range(10)]
    (root / "split.csv").write_text("\n".join(["image,mask,class,group,split", *rows]))
    with pytest.raises(DataError, match=r"1 are for training and 9 for testing, by split\.csv\."):
        check_normals(load(root), 0.01)
