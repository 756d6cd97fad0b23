"""Pictures of many kinds made in code: every mode that cameras and tools write, and files that are none.

Nothing is read from disk, so that the corpus of one version of Pillow is the same everywhere.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 56


def good_pictures() -> dict[str, bytes]:
    """Whole files by a name that says what they are; a server may answer or refuse them, but never fail."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    grey = colour[..., 0]
    picture = Image.fromarray(colour)
    modes = {
        mode: picture.convert(mode) for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB")
    }
    modes["I;16"] = Image.fromarray(grey.astype(np.uint16) * 257)
    modes["I"] = Image.fromarray(grey.astype(np.int32) * 65_537)
    modes["F"] = Image.fromarray(grey.astype(np.float32) / 255)
    ways = {
        "JPEG": (("L", "RGB", "CMYK"), ({}, {"progressive": True}, {"quality": 1})),
        "PNG": (("1", "L", "P", "LA", "RGB", "RGBA", "I;16"), ({}, {"compress_level": 0})),
        "BMP": (("1", "L", "P", "RGB", "RGBA"), ({},)),
        "TIFF": (
            tuple(modes),
            ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "packbits"}),
        ),
    }
    files = {}
    for kind, (names, options) in ways.items():
        for name in names:
            for option in options:
                if (name, option.get("compression")) in (("LA", "packbits"), ("LAB", "packbits")):
                    continue
                title = " ".join((kind, name, *map(str, option.values())))
                files[title] = _encoded(modes[name], kind, **option)
    files["TIFF 1 group4"] = _encoded(modes["1"], "TIFF", compression="group4")
    files["TIFF RGB jpeg"] = _encoded(picture, "TIFF", compression="jpeg")
    files["TIFF big"] = _encoded(picture, "TIFF", big_tiff=True)
    files["TIFF pages"] = _encoded(picture, "TIFF", save_all=True, append_images=[modes["L"], picture])
    files["PNG animated"] = _encoded(picture, "PNG", save_all=True, append_images=[picture.rotate(180)])
    for turn in (0, 3, 6, 9, 65_535):
        exif = Image.Exif()
        exif[274] = turn  # Orientation
        files[f"JPEG orientation {turn}"] = _encoded(picture, "JPEG", exif=exif)
    return files


def no_pictures() -> dict[str, bytes]:
    """Files of other kinds, and such as are nothing."""
    picture = Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return {
        "nothing": b"",
        "one byte": b"\xff",
        "zeros": bytes(4096),
        "text": b"no picture, but a line of text\n" * 40,
        "json": b'{"inputs": [1, 2, 3]}',
        "zip": b"PK\x03\x04" + bytes(100),
        "GIF": _encoded(picture, "GIF"),
        "WEBP": _encoded(picture, "WEBP"),
        "PPM": _encoded(picture, "PPM"),
        "length before it": struct.pack("<I", 200) + _encoded(picture, "PNG"),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>',
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n",
    }


def bombs() -> dict[str, bytes]:
    """Small files whose headers speak of large pictures, and small files that are large pictures."""
    black = Image.new("L", (7000, 7000))
    whole = {
        "PNG 7000x7000, all black": _encoded(black, "PNG"),
        "TIFF 7000x7000, all black": _encoded(black, "TIFF", compression="tiff_deflate"),
        "PNG 60000x16": _encoded(Image.new("L", (60_000, 16)), "PNG"),
    }
    small = Image.new("RGB", (64, 64))
    jpeg = bytearray(_encoded(small, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    bitmap = bytearray(_encoded(small, "BMP"))
    bitmap[18:26] = struct.pack("<ii", 2**31 - 1, -(2**31))
    return {
        **whole,
        "PNG header 20000x20000": announced_png(20_000, 20_000),
        "PNG header 2^31": announced_png(2**31 - 1, 2**31 - 1),
        "PNG header 0x0": announced_png(0, 0),
        "JPEG header 65000x65000": bytes(jpeg),
        "BMP header 2^31": bytes(bitmap),
        "PNG text of 64 MB": _with_text(64 << 20),
    }


def announced_png(width: int, height: int) -> bytes:
    """A PNG file whose header says so many pixels, and which holds almost none."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _png(header, b"IDAT" + zlib.compress(b"\0" * 5000), b"IEND")


def _with_text(size: int) -> bytes:
    """A PNG file whose compressed comment is `size` bytes long, and whose picture is small."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)
    comment = b"zTXtComment\0\0" + zlib.compress(bytes(size))
    return _png(header, comment, b"IDAT" + zlib.compress(bytes(17 * 16)), b"IEND")


def _png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def _encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    picture.save(content, format=kind, **options)
    return content.getvalue()
