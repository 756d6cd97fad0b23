"""Draws an inspection on its picture: heat, outline of the mask, boxes, and a caption, with Pillow alone."""

import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from flawline_client.folders import shown
from flawline_client.inspection import Inspection, Verdict
from flawline_client.places import is_free_or_bears
from flawline_client.wire import Picture

SMALLEST, LARGEST = 720, 2048
"""The longer side of the drawing in pixels: small pictures are enlarged so that text and lines stay sharp."""

HEAT_FROM, HEAT_TO = 0.5, 2.0
"""Map values at which the heat begins and is strongest; 1.0 is the line's pixel threshold."""
HEAT_STOPS = (0.0, 0.35, 0.7, 1.0)
HEAT_COLOURS = ((255, 214, 64), (255, 140, 26), (226, 35, 26), (128, 0, 66))
HEAT_OPACITY = 0.62

BOX = (0, 92, 230)
DEFECT, AGAIN, GOOD = (190, 24, 40), (168, 90, 0), (22, 122, 62)
CAPTIONS = {
    Verdict.PASS: ("GOOD", GOOD),
    Verdict.LOOK_AGAIN: ("LOOK AGAIN", AGAIN),
    Verdict.REJECT: ("DEFECT", DEFECT),
}
"""Word and colour of each answer."""
INK, FAINT_INK, PAPER = (24, 28, 34), (96, 104, 114), (255, 255, 255)

SOFTWARE = "Flawline overlay"
"""Text chunk `Software` of every overlay, by which it is known and may be drawn again."""
OVERLAY_MARK = b"tEXtSoftware\0" + SOFTWARE.encode()

_WIDE_GREY = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def draw_overlay(inspection: Inspection, picture: Picture | Image.Image) -> Image.Image:
    """Draw heat map, mask outline, boxes and a caption on the inspected picture.

    Args:
        inspection: the server's answer.
        picture: the picture it was given for: path, file content, pixels UINT8 or UINT16 [H, W, 3], or an
            upright image.

    Returns:
        RGB image with the picture's aspect ratio, its longer side SMALLEST to LARGEST pixels, and below it
        the caption.

    """
    upright = open_picture(picture)
    scale = min(max(1.0, SMALLEST / max(upright.size)), LARGEST / max(upright.size))
    size = (max(1, round(upright.width * scale)), max(1, round(upright.height * scale)))
    unit = max(size) / 360  # line widths and text grow with the drawing
    enlarging = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    canvas = upright.resize(size, enlarging)
    heat = Image.fromarray(inspection.heat_map(*upright.size)).resize(size, Image.Resampling.BILINEAR)
    _heat(canvas, np.asarray(heat))
    cell = max(size) / max(inspection.mask.shape)
    _outline(canvas, inspection.pixel_mask(*upright.size), cell, unit)
    _boxes(canvas, inspection, scale, unit)
    return _with_caption(canvas, inspection, unit)


def save_overlay(inspection: Inspection, picture: Picture | Image.Image, path: Path) -> None:
    """Write `draw_overlay` to `path` as PNG, whole or not at all; its folder is made.

    Raises:
        FileExistsError: something else than an overlay lies there: nothing but overlays is written over.
        OSError: the file cannot be written.

    """
    if not may_draw(path):
        raise FileExistsError(errno.EEXIST, "it is there and is no overlay of Flawline", str(path))
    told = PngInfo()
    told.add_text("Software", SOFTWARE)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draw_overlay(inspection, picture).save(temporary, format="PNG", pnginfo=told)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def may_draw(path: Path) -> bool:
    """Whether `path` is free or an overlay that this package drew; a link that leads nowhere is not free."""
    return is_free_or_bears(path, OVERLAY_MARK)


def open_picture(picture: Picture | Image.Image) -> Image.Image:
    """RGB for people: turned as EXIF says, the largest page, 16 bits as `_in_eight_bits`."""
    if isinstance(picture, np.ndarray):
        return Image.fromarray(_in_eight_bits(picture) if picture.dtype == np.uint16 else picture)
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        _turn_to_largest(image)
        deep_colour = image.mode == "RGB" and any(";16" in str(tile) for tile in getattr(image, "tile", ()))
        upright = ImageOps.exif_transpose(image)
        if upright.mode in _WIDE_GREY:
            return Image.fromarray(_in_eight_bits(np.asarray(upright))).convert("RGB")
        if deep_colour:  # of which Pillow keeps the upper eight bits
            upper = np.asarray(upright.convert("RGB"))
            white = 2 ** int(upper.max()).bit_length() - 1
            return Image.fromarray(np.rint(upper * (255 / max(white, 1))).astype(np.uint8))
        return upright.convert("RGB")


def _turn_to_largest(image: Image.Image) -> None:
    """Turn a TIFF file of several pages to the one that the server takes: the largest, the first of these."""
    pages = getattr(image, "n_frames", 1)
    if image.format == "TIFF" and pages > 1:
        areas = []
        for page in range(pages):
            image.seek(page)
            areas.append(image.width * image.height)
        image.seek(areas.index(max(areas)))


def _in_eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Bring whole numbers to UINT8 so that people see them: white is the most that the brightest's bits hold."""
    white = max(255, 2 ** int(values.max()).bit_length() - 1)
    return np.rint(np.maximum(values, 0) * (255 / white)).astype(np.uint8)


def _heat(canvas: Image.Image, heat: NDArray[np.float32]) -> None:
    """Lay colour over the picture, the more opaque the hotter."""
    strength = np.clip((heat - HEAT_FROM) / (HEAT_TO - HEAT_FROM), 0.0, 1.0)
    level = np.rint(strength * 255).astype(np.uint8)
    steps = np.linspace(0.0, 1.0, 256)
    colours = [np.interp(steps, HEAT_STOPS, channel) for channel in zip(*HEAT_COLOURS, strict=True)]
    opacity = HEAT_OPACITY * np.sqrt(steps) * 255
    palette = np.rint(np.stack([*colours, opacity], axis=1)).astype(np.uint8)
    layer = Image.fromarray(palette[level])  # RGBA
    canvas.paste(layer, mask=layer)


def _outline(canvas: Image.Image, mask: NDArray[np.bool_], cell: float, unit: float) -> None:
    """Trace the mask's edge with a white line on a dark one, so that it shows on any surface.

    `cell` is the size of one model pixel on the canvas; steps of that size are rounded off.
    """
    grown = Image.fromarray(mask.astype(np.uint8) * 255).resize(canvas.size, Image.Resampling.BILINEAR)
    smooth = grown.filter(ImageFilter.GaussianBlur(0.6 * cell))
    area = smooth.point(lambda value: 255 if value > 127 else 0)
    for colour, half_width in ((INK, 1.2 * unit), (PAPER, 0.5 * unit)):
        near_edge = area.filter(ImageFilter.BoxBlur(half_width)).point(lambda value: 255 * (0 < value < 255))
        canvas.paste(colour, mask=near_edge.filter(ImageFilter.GaussianBlur(0.5)))


def _boxes(canvas: Image.Image, inspection: Inspection, scale: float, unit: float) -> None:
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(10 * unit)
    width = max(2, round(1.4 * unit))
    for x1, y1, x2, y2, score, label in inspection.boxes.tolist():
        left, top, right, bottom = (round(value * scale) for value in (x1, y1, x2, y2))
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=BOX, width=width)
        name = inspection.name_of(label) or (str(int(label)) if label else "")
        text = f"{shown(name)}: {score:.2f}" if name else f"{score:.2f}"
        tag = draw.textbbox((0, 0), text, font=font, anchor="la")
        tag_width, tag_height = tag[2] + 6 * unit, tag[3] + 3 * unit
        tag_left = min(max(0, left), max(0, canvas.width - tag_width))
        tag_top = top - tag_height if top >= tag_height else max(0, top)
        draw.rectangle((tag_left, tag_top, tag_left + tag_width, tag_top + tag_height), fill=BOX)
        draw.text((tag_left + 3 * unit, tag_top + 1 * unit), text, fill=PAPER, font=font, anchor="la")


def _with_caption(canvas: Image.Image, inspection: Inspection, unit: float) -> Image.Image:
    """Add decision, score and p-value below; line and file name where they fit. Widens a narrow picture."""
    bold, plain = ImageFont.load_default(13 * unit), ImageFont.load_default(10 * unit)
    verdict, colour = CAPTIONS[inspection.verdict]
    figures = f"score {inspection.score:.4g}     p-value {inspection.p_value:.2g}"
    name = f"{inspection.line}  {shown(Path(inspection.source).name)}"
    gap = 8 * unit
    chip = bold.getlength(verdict) + 2 * gap
    needed = chip + gap + plain.getlength(figures) + gap
    width, height = max(canvas.width, round(needed)), round(28 * unit)
    framed = Image.new("RGB", (width, canvas.height + height), PAPER)
    framed.paste(canvas, ((width - canvas.width) // 2, 0))
    draw = ImageDraw.Draw(framed)
    middle = canvas.height + height / 2
    draw.rectangle((0, canvas.height, chip, framed.height), fill=colour)
    draw.text((gap, middle), verdict, fill=PAPER, font=bold, anchor="lm")
    draw.text((chip + gap, middle), figures, fill=INK, font=plain, anchor="lm")
    if needed + gap + plain.getlength(name) + gap <= width:
        draw.text((width - gap, middle), name, fill=FAINT_INK, font=plain, anchor="rm")
    return framed
