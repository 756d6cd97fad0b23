"""Damaged pictures and masks are named all at once, before anything is learnt."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flawline.data import Dataset, Sample, load_dataset, load_holdout, soundness
from flawline.data.squares import Squares, check_differ
from flawline.errors import DataError

SIDE = 32


def picture(path: Path, number: int, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def cut(path: Path, share: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(16):
        picture(tmp_path / f"{'train' if number < 8 else 'test'}/good/{number:02d}.png", number)
    picture(tmp_path / "test/defect_dent/1.jpg", 100)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:9, 4:9] = 255
    (tmp_path / "test/masks/defect_dent").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "test/masks/defect_dent/1.png")
    return tmp_path


def test_all_that_is_damaged_is_in_one_list_whatever_its_split(root: Path) -> None:
    cut(root / "train/good/03.png")
    (root / "test/good/09.png").write_bytes(b"")
    cut(root / "test/masks/defect_dent/1.png", 0.5)
    with pytest.raises(
        DataError, match=r"^3 of the 18 pictures and masks of folder:.* cannot be used"
    ) as caught:
        load_dataset(f"folder:{root}")
    for name in (
        r"good/03.png",
        "good/09.png: the picture is empty",
        "masks/defect_dent/1.png: the mask cannot",
    ):
        assert name in str(caught.value)


def test_ten_are_named_and_the_others_counted(root: Path) -> None:
    for number in range(13):
        (root / f"{'train' if number < 8 else 'test'}/good/{number:02d}.png").write_bytes(
            b"no picture, of %d" % number
        )
    with pytest.raises(DataError, match=r"^13 of the 18 .*; and 3 more$") as caught:
        load_dataset(f"folder:{root}")
    assert str(caught.value).count("/good/") == 10


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("decoded", [SIDE * SIDE, 0])
def test_a_file_that_is_cut_short_is_found_decoded_or_not(
    root: Path, suffix: str, decoded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soundness, "DECODED", decoded)
    path = picture(root / f"test/good/last.{suffix}", 200)
    assert len(load_dataset(f"folder:{root}").samples) == 18
    content = path.read_bytes()
    path.write_bytes(content + bytes(50))  # some cameras add to their files
    assert len(load_dataset(f"folder:{root}").samples) == 18
    path.write_bytes(content[: int(0.9 * len(content))])
    with pytest.raises(DataError, match=rf"1 of the .*last\.{suffix}: the picture is damaged or truncated"):
        load_dataset(f"folder:{root}")


def test_an_altered_byte_of_a_large_picture_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundness, "DECODED", 0)
    path = root / "test/good/12.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"12\.png: the picture is damaged"):
        load_dataset(f"folder:{root}")


def test_large_pictures_are_not_decoded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundness, "DECODED", 0)
    monkeypatch.setattr(soundness, "decode", lambda _: pytest.fail("decoded"))
    assert load_dataset(f"folder:{root}").samples


def test_a_file_that_may_not_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "05.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"good/05\.png: Permission denied"):
        load_dataset(f"folder:{root}")


def test_a_damaged_picture_of_another_day_is_found_too(root: Path) -> None:
    cut(root / "train/good/03.png")
    with pytest.raises(DataError, match=r"1 of the 8 pictures and masks of the hold-out good .*03\.png"):
        load_holdout(str(root / "train" / "good"))


def test_layouts_that_look_at_content_name_all_damage_too(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / f"kos/{number}/Part.jpg", number)
        Image.new("L", (SIDE, SIDE)).save(tmp_path / f"kos/{number}/Part_label.bmp")
        picture(tmp_path / f"tiles/free/{number}.jpg", number)
    for number in (0, 2):
        (tmp_path / f"kos/{number}/Part_label.bmp").write_bytes(b"no mask")
        (tmp_path / f"tiles/free/{number}.jpg").write_bytes(b"no picture %d" % number)
    with pytest.raises(DataError, match=r"^2 of the .*0/Part_label.*2/Part_label"):
        load_dataset(f"kolektorsdd:{tmp_path / 'kos'}")
    with pytest.raises(DataError, match=r"^2 of the 4 .*free/0\.jpg.*free/2\.jpg"):
        load_dataset(f"magnetic_tile:{tmp_path / 'tiles'}")


class TestDiffer:
    """Good pictures from which nothing can be learnt."""

    def load(self, folder: Path, pictures: list[np.ndarray]) -> Dataset:
        (folder / "train/good").mkdir(parents=True)
        (folder / "test").mkdir()
        for number, pixels in enumerate(pictures):
            note = PngInfo()
            note.add_text("time", str(number))  # so that no two files are the same
            Image.fromarray(pixels).save(folder / f"train/good/{number:02d}.png", pnginfo=note)
        return load_dataset(f"folder:{folder}")

    @pytest.mark.parametrize(
        ("kind", "why"),
        [
            ("same", "all show the very same"),
            ("off by one", "all show the very same"),
            ("black", "one colour all over"),
            ("white", "one colour all over"),
            ("plain greys", "one colour all over"),
        ],
    )
    def test_pictures_that_are_all_alike_are_refused_before_the_fit(
        self, tmp_path: Path, kind: str, why: str
    ) -> None:
        one = np.random.default_rng(0).integers(1, 254, size=(SIDE, SIDE, 3), dtype=np.uint8)
        made = {
            "same": lambda _: one,
            "off by one": lambda number: one + np.uint8(number % 2),
            "black": lambda _: np.zeros_like(one),
            "white": lambda _: np.full_like(one, 255),
            "plain greys": lambda number: np.full_like(one, 10 * number),
        }[kind]
        dataset = self.load(tmp_path, [made(number) for number in range(12)])
        with pytest.raises(DataError, match=rf"^the 12 good pictures of .* do not differ: .*{why}"):
            check_differ(Squares(dataset.train_normals, SIDE), dataset.name)

    def test_few_pictures_are_read_where_two_differ(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rng = np.random.default_rng(0)
        pictures = [rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8) for _ in range(12)]
        dataset, read = self.load(tmp_path, pictures), []
        monkeypatch.setattr(Sample, "read_values", lambda sample: read.append(1) or pictures[len(read)])
        check_differ(Squares(dataset.train_normals, SIDE), dataset.name)
        assert len(read) == 2

    def test_exact_copies_of_one_picture_are_refused_when_they_are_loaded(self, tmp_path: Path) -> None:
        for number in range(12):
            picture(tmp_path / f"good/{number:02d}.png", 0)
        with pytest.raises(DataError, match=r"do not differ: all are exact copies of .*good/00\.png"):
            load_dataset(f"folder:{tmp_path}")
