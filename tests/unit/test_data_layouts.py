"""Every layout: what becomes of its folders, and what it says when they are not as they should be."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawline.data import GOOD, Dataset, load_dataset, load_holdout
from flawline.data.groups import near_copies
from flawline.errors import DataError

REAL = Path(__file__).parents[2].parent / "shared" / "data"
SIDE = 32


def picture(path: Path, value: int | None = None) -> Path:
    """A picture of one grey value, or one of its own that no other path has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(os.fsencode(path)))
    pixels = rng.integers(256, size=(SIDE, SIDE)) if value is None else np.full((SIDE, SIDE), value)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def mask(path: Path, *, empty: bool = False) -> Path:
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    if not empty:
        pixels[4:8, 10:20] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def counted(dataset: Dataset) -> Counter[tuple[str, str]]:
    return Counter((sample.split, sample.defect_class) for sample in dataset.samples)


def masked_pixels(dataset: Dataset, image: str) -> int:
    (sample,) = (s for s in dataset.samples if s.image == dataset.root / image)
    return int(sample.read_mask(SIDE, SIDE).sum())


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    for index in range(20):
        picture(tmp_path / f"good/{index:02d}.png")
    for index in range(10):
        picture(tmp_path / f"defect_scratch/{index:02d}.jpg")
        mask(tmp_path / f"masks/defect_scratch/{index:02d}.png")
    return tmp_path


class TestFolder:
    def test_draws_a_split_by_seed(self, own_folder: Path) -> None:
        dataset = load_dataset(f"folder:{own_folder}", seed=1)
        assert counted(dataset) == {
            ("train", GOOD): 12,
            ("test", GOOD): 8,
            ("train", "scratch"): 2,
            ("test", "scratch"): 8,
        }
        assert dataset.name == f"folder:{own_folder.name}"
        assert dataset == load_dataset(f"folder:{own_folder}", seed=1)
        assert dataset != load_dataset(f"folder:{own_folder}", seed=2)

    def test_pairs_masks_by_stem_whatever_the_suffix(self, own_folder: Path) -> None:
        assert masked_pixels(load_dataset(f"folder:{own_folder}"), "defect_scratch/03.jpg") == 40

    def test_masks_may_lie_flat_and_deep_pictures_keep_their_path(self, tmp_path: Path) -> None:
        for index in range(3):
            picture(tmp_path / f"OK/{index}.png")
        picture(tmp_path / "defect/night shift/7.bmp")
        mask(tmp_path / "masks/night shift/7_mask.png")
        dataset = load_dataset(f"folder:{tmp_path}")
        assert masked_pixels(dataset, "defect/night shift/7.bmp") == 40
        assert {s.defect_class for s in dataset.samples} == {GOOD, "defect"}

    def test_without_masks_a_defect_has_none(self, tmp_path: Path) -> None:
        picture(tmp_path / "good/1.png")
        picture(tmp_path / "good/2.png")
        picture(tmp_path / "defect/1.png")
        (defect,) = (s for s in load_dataset(f"folder:{tmp_path}").samples if s.is_defect)
        assert defect.mask is None

    def test_train_and_test_folders_are_the_split(self, tmp_path: Path) -> None:
        for name in ("train/good/1", "train/good/2", "test/good/1", "test/defect_dent/1"):
            picture(tmp_path / f"{name}.png")
        mask(tmp_path / "test/masks/defect_dent/1.png")
        dataset = load_dataset(f"folder:{tmp_path}")
        assert counted(dataset) == {("train", GOOD): 2, ("test", GOOD): 1, ("test", "dent"): 1}
        assert masked_pixels(dataset, "test/defect_dent/1.png") == 40

    def test_hidden_files_are_no_pictures(self, own_folder: Path) -> None:
        (own_folder / "good/._01.png").write_bytes(b"what a Mac leaves behind")
        assert len(load_dataset(f"folder:{own_folder}").samples) == 30

    def test_names_the_first_missing_mask(self, own_folder: Path) -> None:
        (own_folder / "masks/defect_scratch/04.png").unlink()
        (own_folder / "masks/defect_scratch/07.png").unlink()
        with pytest.raises(DataError, match=r"defect_scratch/04\.jpg has no mask: .*masks/defect_scratch/04"):
            load_dataset(f"folder:{own_folder}")

    def test_refuses_one_mask_for_two_pictures(self, tmp_path: Path) -> None:
        picture(tmp_path / "good/1.png")
        for kind in ("dent", "scratch"):
            picture(tmp_path / f"defect_{kind}/1.png")
        mask(tmp_path / "masks/1.png")
        with pytest.raises(DataError, match="mask of both"):
            load_dataset(f"folder:{tmp_path}")

    def test_refuses_a_folder_it_would_overlook(self, own_folder: Path) -> None:
        picture(own_folder / "dents/1.png")
        with pytest.raises(DataError, match="dents is neither good/"):
            load_dataset(f"folder:{own_folder}")

    def test_no_normal_pictures(self, tmp_path: Path) -> None:
        picture(tmp_path / "defect/1.png")
        with pytest.raises(DataError, match="no normal pictures"):
            load_dataset(f"folder:{tmp_path}")


def mvtec_category(root: Path, normal: str, defect: str, mask_name: str, suffix: str = ".png") -> Path:
    for index in range(3):
        picture(root / f"train/{normal}/{index:03d}{suffix}")
    picture(root / f"test/{normal}/000{suffix}")
    picture(root / f"test/{defect}/000{suffix}")
    mask(root / f"ground_truth/{defect}/{mask_name}")
    return root


class TestMvtecLike:
    @pytest.mark.parametrize(
        ("layout", "normal", "defect", "mask_name", "suffix"),
        [
            ("mvtec_ad", "good", "thread", "000_mask.png", ".png"),
            ("mpdd", "good", "hole", "000_mask.png", ".png"),
            ("btad", "ok", "ko", "000.png", ".bmp"),
            ("btad", "ok", "ko", "000.bmp", ".bmp"),
        ],
    )
    def test_reads_the_official_split(
        self, tmp_path: Path, layout: str, normal: str, defect: str, mask_name: str, suffix: str
    ) -> None:
        root = mvtec_category(tmp_path / "carpet", normal, defect, mask_name, suffix)
        dataset = load_dataset(f"{layout}:{root}")
        assert dataset.name == f"{layout}:carpet"
        assert counted(dataset) == {("train", GOOD): 3, ("test", GOOD): 1, ("test", defect): 1}
        assert masked_pixels(dataset, f"test/{defect}/000{suffix}") == 40

    def test_lists_the_categories_of_the_parent(self, tmp_path: Path) -> None:
        for category in ("bottle", "carpet"):
            mvtec_category(tmp_path / category, "good", "hole", "000_mask.png")
        with pytest.raises(DataError, match=r"2 categories \(bottle, carpet\).*mvtec_ad:.*/bottle"):
            load_dataset(f"mvtec_ad:{tmp_path}")

    def test_names_what_is_missing(self, tmp_path: Path) -> None:
        root = mvtec_category(tmp_path / "carpet", "good", "hole", "001_mask.png")
        with pytest.raises(DataError, match=r"test/hole/000\.png has no mask: .*ground_truth/hole/000"):
            load_dataset(f"mvtec_ad:{root}")
        with pytest.raises(DataError, match=r"not laid out as mvtec_ad: train/ is missing"):
            load_dataset(f"mvtec_ad:{root / 'test'}")


@pytest.fixture
def visa(tmp_path: Path) -> Path:
    """Two categories and the split file beside them."""
    rows = ["object,split,label,image,mask"]
    for category in ("candle", "pcb1"):
        for index, split in enumerate(("train", "train", "test")):
            name = f"{category}/Data/Images/Normal/{index:04d}.JPG"
            picture(tmp_path / name)
            rows.append(f"{category},{split},normal,{name},")
        name, label = f"{category}/Data/Images/Anomaly/000.JPG", f"{category}/Data/Masks/Anomaly/000.png"
        picture(tmp_path / name)
        mask(tmp_path / label)
        rows.append(f"{category},test,anomaly,{name},{label}")
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text("\n".join(rows))
    return tmp_path


class TestVisa:
    def test_reads_the_official_split(self, visa: Path) -> None:
        dataset = load_dataset(f"visa:{visa / 'candle'}")
        assert counted(dataset) == {("train", GOOD): 2, ("test", GOOD): 1, ("test", "anomaly"): 1}
        assert masked_pixels(dataset, "Data/Images/Anomaly/000.JPG") == 40
        assert len(dataset.fingerprint()) == 64

    def test_says_what_is_wrong(self, visa: Path) -> None:
        with pytest.raises(DataError, match=r"2 categories \(candle, pcb1\)"):
            load_dataset(f"visa:{visa}")
        (visa / "candle/Data/Masks/Anomaly/000.png").unlink()
        with pytest.raises(DataError, match=r"names .*candle/Data/Masks/Anomaly/000\.png, which is missing"):
            load_dataset(f"visa:{visa / 'candle'}")
        (visa / "pcb1").rename(visa / "board")
        with pytest.raises(DataError, match="no row for category 'board'"):
            load_dataset(f"visa:{visa / 'board'}")
        (visa / "split_csv/1cls.csv").unlink()
        with pytest.raises(DataError, match=r"1cls\.csv is missing"):
            load_dataset(f"visa:{visa / 'candle'}")


class TestKolektor:
    def test_items_stay_together_and_copies_count_once(self, tmp_path: Path) -> None:
        for item in range(10):
            for part in range(4):
                value = 10 * (0 if item == 9 and part == 3 else item) + part + 60
                picture(tmp_path / f"kos{item:02d}/Part{part}.jpg", value)
                mask(tmp_path / f"kos{item:02d}/Part{part}_label.bmp", empty=part != 2)
        dataset = load_dataset(f"kolektorsdd:{tmp_path}")
        assert Counter(s.defect_class for s in dataset.samples) == {GOOD: 30, "defect": 10}
        assert len(dataset.train_normals) == 18
        assert len({s.group for s in dataset.samples}) == 9  # kos00 and kos09 share one picture
        assert {s.group for s in dataset.samples if s.image.parent.name in ("kos00", "kos09")} == {"kos00"}

    def test_names_the_missing_mask(self, tmp_path: Path) -> None:
        picture(tmp_path / "kos01/Part0.jpg")
        with pytest.raises(DataError, match=r"kos01/Part0\.jpg has no mask"):
            load_dataset(f"kolektorsdd:{tmp_path}")

    def test_second_set_keeps_its_split_and_leaves_copies_out(self, tmp_path: Path) -> None:
        for split in ("train", "test"):
            for index in range(3):
                picture(tmp_path / f"{split}/{index}.png")
                mask(tmp_path / f"{split}/{index}_GT.png", empty=index != 1)
        picture(tmp_path / "train/7 (copy).png")
        dataset = load_dataset(f"kolektorsdd2:{tmp_path}")
        assert counted(dataset) == {
            (split, name): count for split in ("train", "test") for name, count in ((GOOD, 2), ("defect", 1))
        }
        (tmp_path / "test/1_GT.png").unlink()
        with pytest.raises(DataError, match=r"test/1\.png has no mask"):
            load_dataset(f"kolektorsdd2:{tmp_path}")


def tile(path: Path, seed: int, exposure: float) -> Path:
    """One tile by seed, seen at an exposure, in light whose fall-off outweighs what tells tiles apart."""
    coarse = np.random.default_rng(seed).uniform(90, 130, (24, 24))
    surface = np.kron(coarse, np.ones((4, 4))) * exposure * np.linspace(0.3, 1.5, 96)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(surface, 0, 255).astype(np.uint8)).save(path, quality=90)
    return path


class TestMagneticTile:
    def test_exposures_of_one_tile_stay_together(self, tmp_path: Path) -> None:
        for number in range(10):
            for exposure in (0.5, 0.8, 1.2):
                tile(tmp_path / f"MT_Free/Imgs/exp{exposure}_num_{number}.jpg", number, exposure)
                tile(tmp_path / f"MT_Blowhole/Imgs/exp{exposure}_num_{number}.jpg", 100 + number, exposure)
                mask(tmp_path / f"MT_Blowhole/Imgs/exp{exposure}_num_{number}.png", empty=number == 0)
        dataset = load_dataset(f"magnetic_tile:{tmp_path}")
        assert counted(dataset) == {
            ("train", GOOD): 18,
            ("test", GOOD): 12,
            ("train", "blowhole"): 6,
            ("test", "blowhole"): 24,
        }
        groups = Counter(s.group for s in dataset.samples)
        assert set(groups.values()) == {3}
        assert all(len({s.split for s in dataset.samples if s.group == group}) == 1 for group in groups)

    def test_names_the_missing_mask(self, tmp_path: Path) -> None:
        tile(tmp_path / "crack/exp1.jpg", 0, 1.0)
        with pytest.raises(DataError, match=r"crack/exp1\.jpg has no mask"):
            load_dataset(f"magnetic_tile:{tmp_path}")

    @pytest.mark.skipif(not (REAL / "magnetic_tile").is_dir(), reason="Magnetic Tile is not here")
    def test_real_set(self) -> None:
        dataset = load_dataset(f"magnetic_tile:{REAL / 'magnetic_tile'}")
        assert (len(dataset.train_normals), len(dataset.train_defects), len(dataset.test)) == (502, 76, 766)
        train = {s.group for s in dataset.samples if s.split == "train"}
        assert not train & {s.group for s in dataset.test}
        empty = [
            s for s in dataset.samples if s.is_defect and not s.read_mask(*s.read_image().shape[:2]).any()
        ]
        assert [s.defect_class for s in empty] == ["uneven"] * 4

    @pytest.mark.skipif(not (REAL / "magnetic_tile").is_dir(), reason="Magnetic Tile is not here")
    def test_near_copies_find_what_the_split_file_groups(self) -> None:
        dataset = load_dataset(f"magnetic_tile:{REAL / 'magnetic_tile'}")
        samples = [s for s in dataset.samples if s.defect_class == "crack"]
        groups = near_copies(samples, dataset.root)
        ours = {s.image: groups[s.image.relative_to(dataset.root).as_posix()] for s in samples}
        pairs = [(a, b) for a in samples for b in samples if a.image < b.image and a.group == b.group]
        together = sum(ours[a.image] == ours[b.image] for a, b in pairs)
        assert len(pairs) > 50
        assert together > 0.9 * len(pairs)


@pytest.mark.skipif(not (REAL / "kolektorsdd").is_dir(), reason="KolektorSDD is not here")
def test_real_kolektorsdd() -> None:
    dataset = load_dataset(f"kolektorsdd:{REAL / 'kolektorsdd'}")
    assert (len(dataset.train_normals), len(dataset.train_defects), len(dataset.test)) == (209, 30, 160)
    groups = {s.image.parent.name: s.group for s in dataset.samples}
    assert groups["kos26"] == groups["kos01"]
    defect = dataset.train_defects[0]
    assert defect.read_mask(*defect.read_image().shape[:2]).any()


class TestHoldout:
    def test_a_plain_folder_gives_all_its_pictures(self, tmp_path: Path) -> None:
        picture(tmp_path / "monday/1.png")
        picture(tmp_path / "2.jpg")
        samples = load_holdout(str(tmp_path))
        assert [sample.image.name for sample in samples] == ["2.jpg", "1.png"]
        assert all(not sample.is_defect and sample.mask is None for sample in samples)

    @pytest.mark.parametrize("layout", ["folder:", ""])
    def test_of_a_folder_with_defects_the_good_ones_are_taken(self, own_folder: Path, layout: str) -> None:
        samples = load_holdout(f"{layout}{own_folder}")
        assert len(samples) == 20
        assert {sample.image.parent.name for sample in samples} == {"good"}

    def test_a_folder_with_train_and_test_gives_the_good_ones_of_both(self, tmp_path: Path) -> None:
        for place in ("train/good/1.png", "test/good/2.png", "test/defect/3.png"):
            picture(tmp_path / place)
        assert sorted(sample.image.name for sample in load_holdout(str(tmp_path))) == ["1.png", "2.png"]

    def test_a_split_file_tells_the_good_ones(self, own_folder: Path) -> None:
        (own_folder / "split.csv").write_text(
            "image,mask,class,group,split\ngood/00.png,,good,,test\ndefect_scratch/00.jpg,,scratch,,test\n"
        )
        assert [sample.image.name for sample in load_holdout(str(own_folder))] == ["00.png"]

    def test_normals_of_the_test_split_alone_are_enough(self, tmp_path: Path) -> None:
        picture(tmp_path / "good/1.png")
        (tmp_path / "split.csv").write_text("image,mask,class,group,split\ngood/1.png,,good,,test\n")
        assert len(load_holdout(f"folder:{tmp_path}")) == 1

    @pytest.mark.parametrize("content", ["nothing", "defects", "notes"])
    def test_without_a_good_picture_it_says_what_it_takes(self, tmp_path: Path, content: str) -> None:
        if content == "defects":
            picture(tmp_path / "defect_scratch/1.png")
        elif content == "notes":
            (tmp_path / "notes.txt").write_text("good")
        with pytest.raises(
            DataError,
            match="holds no good picture; --holdout tests the promise on good pictures taken another day",
        ):
            load_holdout(str(tmp_path))

    def test_a_path_that_is_no_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match=r"gone is not a folder; --holdout takes a folder of good pictures"
        ):
            load_holdout(str(tmp_path / "gone"))
