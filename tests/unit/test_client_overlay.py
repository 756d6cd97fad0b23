import io
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flawline_client import Inspection, Verdict
from flawline_client.overlay import AGAIN, BOX, DEFECT, GOOD, PAPER, draw_overlay, open_picture, save_overlay

GREY = 120
SIDE = 800  # within the drawing's limits, so one picture pixel is one drawn pixel


def inspect(verdict=Verdict.REJECT, spot=1.8, boxes=()) -> Inspection:
    anomaly_map = np.full((64, 64), 0.2, dtype=np.float32)
    anomaly_map[16:32, 16:32] = spot  # picture pixels 200 to 400
    return Inspection(
        line="bolts",
        source="folder/a.png",
        score=2.5,
        p_value=0.004,
        verdict=verdict,
        is_defect=verdict is Verdict.REJECT,
        anomaly_map=anomaly_map,
        mask=(anomaly_map >= 1).astype(np.uint8),
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 6),
        latency_ms=1.0,
    )


def test_a_name_of_any_bytes_is_drawn(grey):
    odd = replace(inspect(), source=os.fsdecode(b"folder/gr\xfcn\n.png"))
    assert (drawn(odd, grey) != drawn(inspect(), grey)).any()


@pytest.fixture
def grey() -> np.ndarray:
    return np.full((SIDE, SIDE, 3), GREY, dtype=np.uint8)


def drawn(inspection, picture) -> np.ndarray:
    return np.asarray(draw_overlay(inspection, picture)).astype(int)


def test_heat_shows_where_the_map_is_high_and_nowhere_else(grey):
    canvas = drawn(inspect(), grey)
    red, green, _ = canvas[300, 300]
    assert red > green + 60
    assert (canvas[600, 600] == GREY).all()


def test_heat_grows_with_the_map(grey):
    change = [np.abs(drawn(inspect(spot=spot), grey)[300, 300] - GREY).sum() for spot in (0.4, 0.7, 1.2, 2.0)]
    assert change[0] == 0
    assert 0 < change[1] < change[2] < change[3]


def test_the_mask_is_outlined(grey):
    canvas = drawn(inspect(spot=1.0), grey)
    row = canvas[300, 150:250]  # across the left edge of the spot, at 200
    brightest = 150 + int(row.sum(axis=-1).argmax())
    assert brightest == pytest.approx(200, abs=8)
    assert row.sum(axis=-1).max() > 650


def test_boxes_lie_in_picture_pixels_and_carry_their_score(grey):
    canvas = drawn(inspect(boxes=[(500, 520, 620, 700, 1.4, 0)]), grey)
    blue = (canvas == BOX).all(axis=-1)
    assert blue[600, 500]
    assert blue[600, 620]
    assert blue[700, 560]
    assert not blue[600, 560]
    assert blue[490:518, 500:560].mean() > 0.5  # the tag above


@pytest.mark.parametrize(
    ("verdict", "colour"), [(Verdict.REJECT, DEFECT), (Verdict.LOOK_AGAIN, AGAIN), (Verdict.PASS, GOOD)]
)
def test_the_caption_tells_the_decision_below_the_picture(grey, verdict, colour):
    canvas = drawn(inspect(verdict), grey)
    assert canvas.shape[1] == SIDE
    assert canvas.shape[0] > SIDE
    assert (canvas[SIDE + 3, 3] == colour).all()
    assert (canvas[SIDE + 3, SIDE - 3] == PAPER).all()


@pytest.mark.parametrize(
    ("width", "height", "drawn_at"),
    [(100, 50, (720, 360)), (4000, 1000, (2048, 512)), (800, 900, (800, 900))],
)
def test_the_drawing_is_large_enough_to_read_and_small_enough_to_keep(width, height, drawn_at):
    drawing = draw_overlay(inspect(), np.full((height, width, 3), GREY, dtype=np.uint8))
    assert drawing.width == drawn_at[0]
    assert drawing.height > drawn_at[1]


def test_a_narrow_picture_is_widened_so_that_the_caption_fits():
    drawing = draw_overlay(inspect(), np.full((900, 60, 3), GREY, dtype=np.uint8))
    assert drawing.width > 200


def test_pictures_are_opened_as_the_server_sees_them(tmp_path):
    turned = Image.new("RGB", (30, 20))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert open_picture(tmp_path / "turned.jpg").size == (20, 30)

    wide = io.BytesIO()
    Image.fromarray(np.full((4, 4), 0x8040, dtype=np.uint16)).save(wide, format="PNG")
    assert open_picture(wide.getvalue()).getpixel((0, 0)) == (0x80, 0x80, 0x80)


def test_saving_leaves_a_whole_file_and_nothing_else(tmp_path, grey):
    target = tmp_path / "new" / "a.png"
    save_overlay(inspect(), grey, target)
    save_overlay(inspect(Verdict.PASS), grey, target)
    with Image.open(target) as image:
        assert image.format == "PNG"
    assert [path.name for path in target.parent.iterdir()] == ["a.png"]


def test_a_failed_drawing_leaves_the_old_file(tmp_path, grey, monkeypatch):
    def half_write(_image, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    target = tmp_path / "a.png"
    save_overlay(inspect(), grey, target)
    before = target.read_bytes()
    monkeypatch.setattr(Image.Image, "save", half_write)
    with pytest.raises(OSError, match="No space left"):
        save_overlay(inspect(), grey, target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_only_overlays_are_drawn_over(tmp_path, grey):
    for name, content in (("picture.png", grey), ("notes.txt", b"keep"), ("empty.png", b"")):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            Image.fromarray(np.asarray(content)).save(path)
        before = path.read_bytes()
        with pytest.raises(FileExistsError, match="is no overlay of Flawline"):
            save_overlay(inspect(), grey, path)
        assert path.read_bytes() == before
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone")
    with pytest.raises(FileExistsError):
        save_overlay(inspect(), grey, tmp_path / "nowhere.png")
    assert len(list(tmp_path.iterdir())) == 4
