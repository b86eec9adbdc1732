"""What a file says of its picture beside the pixels: orientation, resolution, EXIF."""

from typing import Any

from PIL import Image

from srgan_ray.data.images import EXIF_ORIENTATION

EXIF_IFD, GPS_IFD = 0x8769, 0x8825
WIDTH, HEIGHT, EXIF_WIDTH, EXIF_HEIGHT = 0x0100, 0x0101, 0xA002, 0xA003
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
INCH, CENTIMETRE = 2, 3
# description, make, model, software, time, artist, copyright: others of a TIFF file's tags tell how it is stored
KEPT_OF_TIFF = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
MAX_DPI = 65535
MAX_EXIF_BYTES = {"jpeg": 65533}  # the others have no limit that a body reaches


def read_exif(image: Image.Image) -> tuple[Image.Exif, int]:
    """EXIF without its orientation, and the orientation (1: upright). Damaged EXIF is none: the pixels may be whole."""
    orientation = 1
    try:
        exif = image.getexif()
        stored = exif.pop(EXIF_ORIENTATION, 1)
        orientation = int(stored) if stored in range(1, 9) else 1
        return _copy(_of_photograph(exif) if image.format == "TIFF" else exif), orientation
    except Exception:  # Pillow raises nearly anything, also for values that it reads but cannot write
        return Image.Exif(), orientation


def read_dpi(image: Image.Image, exif: Image.Exif) -> tuple[float, float] | None:
    """Dots per inch, across and down, as stored; None where they are missing or senseless."""
    dpi = image.info.get("dpi") or _resolution(exif)
    if not dpi or not all(0 < dots <= MAX_DPI for dots in dpi):
        return None
    return float(dpi[0]), float(dpi[1])


def with_size(exif: Image.Exif, height: int, width: int) -> Image.Exif:
    """A copy, in which tags of the size that are there have this one."""
    copy = _copy(exif)
    inner = copy.get_ifd(EXIF_IFD)
    for tags, tag, side in (
        (copy, WIDTH, width),
        (copy, HEIGHT, height),
        (inner, EXIF_WIDTH, width),
        (inner, EXIF_HEIGHT, height),
    ):
        if tag in tags:
            tags[tag] = side
    return copy


def exif_bytes(exif: Image.Exif, dpi: tuple[float, float] | None, format: str) -> bytes:
    """As the format holds it, empty where it is too long for it; WebP has no other place for the resolution."""
    copy = _copy(exif)
    if dpi and (format == "webp" or X_RESOLUTION in copy):
        copy[X_RESOLUTION], copy[Y_RESOLUTION] = dpi
        copy[RESOLUTION_UNIT] = INCH
    encoded = copy.tobytes() if len(copy) else b""
    return b"" if len(encoded) > MAX_EXIF_BYTES.get(format, len(encoded)) else encoded


def _of_photograph(tags: Image.Exif) -> Image.Exif:
    kept = Image.Exif()
    for tag in KEPT_OF_TIFF:
        if tag in tags:
            kept[tag] = tags[tag]
    for place in (EXIF_IFD, GPS_IFD):
        if inner := tags.get_ifd(place):
            kept.get_ifd(place).update(inner)
    return kept


def _resolution(exif: Image.Exif) -> tuple[Any, Any] | None:
    per_inch = {INCH: 1, CENTIMETRE: 2.54}.get(exif.get(RESOLUTION_UNIT, INCH))
    across, down = exif.get(X_RESOLUTION), exif.get(Y_RESOLUTION)
    return (across * per_inch, down * per_inch) if per_inch and across and down else None


def _copy(exif: Image.Exif) -> Image.Exif:
    copy = Image.Exif()
    if len(exif):
        copy.load(exif.tobytes())
    return copy
