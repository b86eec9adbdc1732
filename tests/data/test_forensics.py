"""Faults planted in photographs are found, and nothing is found in good ones."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut, chelsea, coffee

from srgan_ray.data import images
from srgan_ray.data.forensics import (
    Finding,
    detail_db,
    find_faults,
    group_alike,
    jpeg_quality,
    make_signature,
    measure,
)

PHOTOGRAPHS = {"astronaut": astronaut(), "chelsea": chelsea(), "coffee": coffee()}


def save(picture: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def notes_of(encoded: bytes, name: str = "a.jpg") -> str:
    return "; ".join(measure(find_faults(name, "", encoded), images.decode(encoded)).notes)


def grey(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).convert("L"))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("options", [{"format": "jpeg", "quality": 75}, {"format": "jpeg", "quality": 95}])
def test_nothing_is_found_in_good_photographs(name: str, options: dict) -> None:
    assert notes_of(save(Image.fromarray(PHOTOGRAPHS[name]), **options)) == ""


def make_faults() -> dict[str, tuple[bytes, str]]:
    picture = Image.fromarray(astronaut())
    turned = Image.Exif()
    turned[0x0112] = 6
    small = picture.resize((256, 256), Image.Resampling.BOX)
    frames = {"save_all": True, "append_images": [picture.rotate(90)]}
    sixteen = Image.fromarray(grey(astronaut()).astype(np.uint16) * 257)
    return {
        "wrong ending: PNG called .jpg": (save(picture, format="png"), "a.jpg"),
        "EXIF orientation: 6": (save(picture, format="jpeg", exif=turned), "a.jpg"),
        "animated: 2 frames": (save(picture, format="webp", **frames), "a.webp"),
        "pixel mode: CMYK": (save(picture.convert("CMYK"), format="jpeg"), "a.JPG"),
        "pixel mode: P,": (save(picture.convert("P"), format="png"), "a.png"),
        "pixel mode: RGBA": (save(picture.convert("RGBA"), format="png"), "a.png"),
        "pixel mode: I;16": (save(sixteen, format="png"), "a.png"),
        "pixel mode: transparency": (save(picture, format="png", transparency=(0, 0, 0)), "a.png"),
        "heavy JPEG compression": (save(picture, format="jpeg", quality=20), "a.jpeg"),
        "little detail": (save(small.resize((512, 512), Image.Resampling.BICUBIC), format="png"), "a.png"),
    }


@pytest.mark.parametrize("fault", make_faults())
def test_planted_faults_are_found(fault: str) -> None:
    encoded, name = make_faults()[fault]
    assert fault in notes_of(encoded, name)


def test_heavy_compression_is_seen_in_the_pixels_too() -> None:
    again = images.decode(save(Image.fromarray(astronaut()), format="jpeg", quality=8))
    assert notes_of(save(Image.fromarray(again), format="jpeg", quality=95)) == "heavy JPEG compression"
    assert notes_of(save(Image.fromarray(again), format="png"), "a.png") == "heavy JPEG compression"


@pytest.mark.parametrize("quality", [1, 10, 25, 50, 75, 90, 95, 100])
def test_the_quality_setting_is_read_from_the_tables(quality: int) -> None:
    encoded = save(Image.fromarray(chelsea()), format="jpeg", quality=quality)
    assert abs(jpeg_quality(images.read_traits(encoded).quantization) - quality) <= 2


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_detail_falls_with_enlargement(name: str) -> None:
    picture = Image.fromarray(PHOTOGRAPHS[name])
    width, height = picture.size
    small = picture.resize((width // 2, height // 2), Image.Resampling.BOX)
    enlarged = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    assert detail_db(grey(enlarged)) < detail_db(grey(PHOTOGRAPHS[name])) - 6
    assert measure(Finding("", ""), PHOTOGRAPHS[name]).notes == ()


def variants(image: np.ndarray) -> list[np.ndarray]:
    picture = Image.fromarray(image)
    width, height = picture.size
    changed = [
        picture.resize((width * 2 // 3, height * 2 // 3)),
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        picture.point([min(255, level + 12) for level in range(256)] * 3),
        Image.open(io.BytesIO(save(picture, format="jpeg", quality=25))),
        picture.crop((2, 2, width - 2, height - 2)),
    ]
    return [np.asarray(variant) for variant in changed]


def test_look_alikes_are_grouped_and_others_are_not() -> None:
    pictures = [picture for image in PHOTOGRAPHS.values() for picture in (image, *variants(image))]
    random = np.random.default_rng(0)
    others = [
        np.asarray(Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).resize((90, 90))) for _ in range(300)
    ]
    groups = group_alike([make_signature(grey(image)) for image in (*pictures, *others)])
    assert groups == [[*range(6)], [*range(6, 12)], [*range(12, 18)]]


def test_grouping_finds_what_comparing_all_pairs_finds() -> None:
    random = np.random.default_rng(1)
    signatures = random.integers(0, 2, (400, 256), np.uint8)
    for number in range(100):  # every fourth one is a neighbour of the one before, up to 30 bits away
        flips = random.choice(np.arange(1, 256), random.integers(0, 30), replace=False)
        signatures[4 * number + 1] = signatures[4 * number]
        signatures[4 * number + 1, flips] ^= 1
    groups = group_alike([np.packbits(bits).tobytes() for bits in signatures])
    found = sum([4 * number, 4 * number + 1] in groups for number in range(100))
    assert found >= 95
    assert all(len(group) == 2 and group[0] % 4 == 0 and group[1] == group[0] + 1 for group in groups)


def test_few_and_flat_photographs_do_no_harm(tmp_path: Path) -> None:
    assert group_alike([]) == group_alike([b"\0" * 32]) == []
    flat = np.full((100, 100, 3), 128, np.uint8)
    assert "little detail" not in "; ".join(measure(Finding("", ""), flat).notes)
    assert group_alike([make_signature(grey(flat))] * 3) == [[0, 1, 2]]
