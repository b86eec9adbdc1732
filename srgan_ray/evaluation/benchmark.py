"""A generator beside bicubic interpolation, on the same LR images."""

import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from srgan_ray.data import images
from srgan_ray.data.crops import MIXED
from srgan_ray.data.degrade import DEGRADATIONS, SCALE, matlab_bicubic_up
from srgan_ray.errors import InputError
from srgan_ray.evaluation.diagnostics import checkerboard, colour_drift, consistency_db
from srgan_ray.evaluation.lpips import Lpips, measure_lpips
from srgan_ray.evaluation.metrics import BORDER_PX, Measurement, Protocol, as_json, average, measure
from srgan_ray.evaluation.niqe import BLOCK_PX, MIN_BLOCKS, PristineModel, count_blocks, load_pristine_model, niqe
from srgan_ray.evaluation.perception import measure_swd
from srgan_ray.models.artifact import PSNR, find_generator, load_generator
from srgan_ray.models.upscaler import Upscaler

BICUBIC = "bicubic"
TRUTH = "HR"
FROM_FILES = "files"
CAPTION_PX = 20  # height of the strip over a panel
MIN_SIDE_PX = 11 + 2 * BORDER_PX  # SSIM's window, inside the border

Upscale = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """A generator beside bicubic interpolation, in figures and pictures."""

    hr: str
    """Folder of HR images."""
    lr: str = ""
    """Folder of LR images with the names of the HR images; without it, LR is made from HR."""
    degradation: str = ""
    """How LR is made from HR: opencv_cubic or matlab_bicubic, which papers use and is taken where nothing is given."""
    generator: str = PSNR
    """A released generator (psnr or perceptual), a generator file, or a run folder or registry that holds it."""
    precision: str = "auto"
    """bf16, fp32, or auto: bf16 where the hardware multiplies it natively."""
    json: str = ""
    """File for the figures with their protocols."""
    pictures: str = ""
    """Folder for LR | bicubic | SR | HR pictures."""
    niqe_model: str = ""
    """NIQE's pristine model, an .npz; adds the column niqe."""
    lpips_weights: str = ""
    """ImageNet weights for LPIPS: cached (torchvision's AlexNet, if it is there), imagenet (downloads it), or a FILE of
    alexnet or vgg16; adds the column lpips."""


class Pair(NamedTuple):
    """One image to measure with: `uint8` RGB, HR (4h, 4w, 3) and LR (h, w, 3)."""

    name: str
    hr: np.ndarray
    lr: np.ndarray


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Compare, print the table to standard error, write the files that are asked for, and return the figures.

    Raises InputError for what cannot be measured, and before measuring where a file could not be written.
    """
    degradation = config.degradation or (FROM_FILES if config.lr else "matlab_bicubic")
    pairs = load_pairs(config.hr, config.lr, degradation)
    pristine = load_pristine(config.niqe_model, pairs) if config.niqe_model else None
    lpips = load_lpips(config.lpips_weights, pairs) if config.lpips_weights else None
    generator, card = load_generator(find_generator(config.generator))
    upscalers: dict[str, Upscale] = {card.name: Upscaler(generator, config.precision)}
    pictures = Path(config.pictures) if config.pictures else None
    _make_places(config)
    try:
        table = compare(pairs, upscalers, degradation, pictures, pristine, lpips)
    except FloatingPointError as error:
        raise InputError(f"--generator {config.generator}: {error}; wanted another one") from error
    print(format_table(table), file=sys.stderr)
    if not config.lr and card.degradation not in (MIXED, degradation):
        print(f"note: trained on LR by {card.degradation}, measured on {degradation}", file=sys.stderr)
    figures = {name: as_json(row) for name, row in table.items()}
    if config.json:
        described = json.dumps({"trained_on": card.degradation, "figures": figures}, indent=2)
        with _writing(f"--json {config.json}", "file"):
            Path(config.json).write_text(described + "\n")
    means = {name: {metric: round(m.value, 4) for metric, m in row.items()} for name, row in table.items()}
    return {"num_images": len(pairs), "degradation": degradation, "trained_on": card.degradation, "figures": means}


def load_pristine(path: str, pairs: Iterable[Pair]) -> PristineModel:
    """NIQE's pristine model, for these pairs. Raises InputError for one that is too small."""
    for pair in pairs:
        height, width = pair.hr.shape[:2]
        if count_blocks(height, width) < MIN_BLOCKS:
            raise InputError(
                f"--niqe-model {path}: {pair.name} has {width}x{height} pixels; "
                f"wanted {MIN_BLOCKS} blocks of {BLOCK_PX}x{BLOCK_PX} inside a border of {BORDER_PX}"
            )
    return load_pristine_model(path)


def load_lpips(weights: str, pairs: Iterable[Pair]) -> Lpips:
    """LPIPS's network, for these pairs. Raises InputError for one that is too small."""
    lpips = Lpips(weights)
    for pair in pairs:
        height, width = pair.hr.shape[:2]
        if min(height, width) < lpips.min_side_px:
            raise InputError(
                f"--lpips-weights {weights}: {pair.name} has {width}x{height} pixels; "
                f"wanted {lpips.min_side_px} or more each side for {lpips.name}"
            )
    return lpips


def load_pairs(hr_folder: str, lr_folder: str, degradation: str) -> list[Pair]:
    """The HR images of a folder, cropped to multiples of 4, with LR from `lr_folder` (same names) or made from HR.

    Raises InputError where both `lr_folder` and a `degradation` other than FROM_FILES are given, or files do not fit.
    """
    if lr_folder and degradation != FROM_FILES:
        raise InputError(f"--lr {lr_folder} and --degradation {degradation}; wanted one of them")
    if not lr_folder and degradation not in DEGRADATIONS:
        raise InputError(f"--degradation {degradation}; wanted one of {', '.join(DEGRADATIONS)}")
    pairs = []
    for path in _image_files("--hr", hr_folder):
        hr = images.crop_to_multiple(_read("--hr", path), SCALE)
        if min(hr.shape[:2]) < MIN_SIDE_PX:
            raise InputError(f"--hr {path}: {hr.shape[1]}x{hr.shape[0]} pixels; wanted {MIN_SIDE_PX} or more each side")
        if images.is_one_colour(hr[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]):
            raise InputError(
                f"--hr {path}: one colour inside the border of {BORDER_PX} px; wanted something to restore"
            )
        lr = _read("--lr", Path(lr_folder) / path.name) if lr_folder else DEGRADATIONS[degradation](hr)
        if (SCALE * lr.shape[0], SCALE * lr.shape[1]) != hr.shape[:2]:
            raise InputError(
                f"--lr {Path(lr_folder) / path.name}: {lr.shape[1]}x{lr.shape[0]} pixels; "
                f"wanted 1/{SCALE} of HR, {hr.shape[1] // SCALE}x{hr.shape[0] // SCALE}"
            )
        pairs.append(Pair(path.stem, hr, lr))
    return pairs


def hash_pairs(pairs: Sequence[Pair]) -> str:
    """A hash of all pixels that are measured, HR and LR."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(repr(pair.hr.shape).encode() + pair.hr.tobytes() + pair.lr.tobytes())
    return digest.hexdigest()[:16]


def compare(
    pairs: Sequence[Pair],
    upscalers: dict[str, Upscale],
    degradation: str,
    pictures: Path | None = None,
    pristine: PristineModel | None = None,
    lpips: Lpips | None = None,
) -> dict[str, dict[str, Measurement]]:
    """Measure each upscaler and bicubic on the same pairs: name to metric to Measurement.

    HR has a row of what needs no truth beside it. Writes LR | bicubic | SR … | HR pictures of pairs into the folder
    `pictures`.
    """
    data_hash = hash_pairs(pairs)
    everyone = {BICUBIC: matlab_bicubic_up, **upscalers}
    results = {name: [upscale(pair.lr) for pair in pairs] for name, upscale in everyone.items()}
    for index, pair in enumerate(pairs):
        if pictures:
            picture = caption_panels(pair.lr, {name: sr[index] for name, sr in results.items()}, pair.hr)
            with _writing(f"--pictures {pictures}", "folder"):
                (pictures / f"{pair.name}.png").write_bytes(images.encode(picture, "png"))
    rows = {
        name: measure([(pair.hr, sr) for pair, sr in zip(pairs, srs)], degradation, data_hash)
        | measure_alone(srs, degradation, data_hash, pristine)
        | measure_agreement(pairs, srs, degradation, data_hash, lpips)
        for name, srs in results.items()
    }
    return {**rows, TRUTH: measure_alone([pair.hr for pair in pairs], degradation, data_hash, pristine)}


def measure_alone(
    srs: Sequence[np.ndarray], degradation: str, data_hash: str, pristine: PristineModel | None = None
) -> dict[str, Measurement]:
    """What needs no other image beside it, `uint8` RGB: `checkerboard`, and `niqe` where there is a pristine model."""
    protocol = Protocol("checkerboard", "rgb", degradation, data_hash, border_px=0)
    measured = {"checkerboard": average(map(checkerboard, srs), protocol)}
    if pristine:
        protocol = Protocol("niqe", "y", degradation, data_hash, model_hash=pristine.hash)
        measured["niqe"] = average((niqe(sr, pristine) for sr in srs), protocol)
    return measured


def measure_agreement(
    pairs: Sequence[Pair], srs: Sequence[np.ndarray], degradation: str, data_hash: str, lpips: Lpips | None = None
) -> dict[str, Measurement]:
    """`colour_drift`, `swd` and, where there are weights, `lpips` from HR, and `consistency` with LR unless LR was
    given: how it was made is not known then."""
    protocol = Protocol("colour_drift", "rgb", degradation, data_hash, border_px=0)
    measured = {"colour_drift": average((colour_drift(sr, pair.hr) for pair, sr in zip(pairs, srs)), protocol)}
    both = [(sr, pair.hr) for pair, sr in zip(pairs, srs)]
    measured["swd"] = measure_swd(both, protocol)
    if lpips:
        measured["lpips"] = measure_lpips(lpips, both, protocol)
    if degradation in DEGRADATIONS:
        values = (consistency_db(sr, pair.lr, degradation) for pair, sr in zip(pairs, srs))
        measured["consistency"] = average(values, dataclasses.replace(protocol, metric="consistency"))
    return measured


def format_table(table: dict[str, dict[str, Measurement]]) -> str:
    """The comparison as lines of text, a part for each width of border, with the gain over bicubic and the protocol."""
    parts: dict[int, list[str]] = {}
    for metric, measurement in table[BICUBIC].items():
        parts.setdefault(measurement.protocol.border_px, []).append(metric)
    return "\n".join(line for metrics in parts.values() for line in _format_part(table, metrics))


def _format_part(table: dict[str, dict[str, Measurement]], metrics: list[str]) -> list[str]:
    bicubic, width = table[BICUBIC], max(len(name) for name in table)
    lines = [" " * width + "".join(f"  {metric:>17}" for metric in metrics)]
    for name, row in table.items():
        if not row.keys().isdisjoint(metrics):
            cells = (f"{row[m].value:9.4f} ({row[m].gain_over(bicubic[m]):+6.3f})" if m in row else "" for m in metrics)
            lines.append(f"{name:<{width}}" + "".join(f"  {cell:>17}" for cell in cells))
    common, *others = (bicubic[metric].protocol for metric in metrics)
    own = [f"{other.metric}: {other.average}" for other in others if other.average != common.average]
    own += [f"{one.metric}: model {one.model_hash}" for one in (common, *others) if one.model_hash]
    protocol = (
        f"in brackets: gain over bicubic, positive where better; LR by {common.degradation}, "
        f"border {common.border_px} px, SR rounded to {common.rounding}, {common.average}, data {common.data_hash}"
    )
    return [*lines, "; ".join([protocol, *own])]


def caption_panels(lr: np.ndarray, outputs: dict[str, np.ndarray], hr: np.ndarray) -> np.ndarray:
    """LR (enlarged without interpolation) | each output | HR side by side, with a caption over each."""
    enlarged = lr.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    panels = [_caption(image, name) for name, image in {"LR": enlarged, **outputs, "HR": hr}.items()]
    return np.concatenate(panels, axis=1)


def split_panels(picture: np.ndarray, number: int) -> list[np.ndarray]:
    """The `number` panels of a picture that `caption_panels` made, without their captions."""
    return np.split(picture[CAPTION_PX:], number, axis=1)


def _caption(image: np.ndarray, text: str) -> np.ndarray:
    strip = np.full((CAPTION_PX, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, image])


def _make_places(config: EvaluateConfig) -> None:
    """The folders and the file that are written to in the end."""
    if config.pictures:
        with _writing(f"--pictures {config.pictures}", "folder"):
            Path(config.pictures).mkdir(parents=True, exist_ok=True)
    if config.json:
        with _writing(f"--json {config.json}", "file"):
            Path(config.json).parent.mkdir(parents=True, exist_ok=True)
            open(config.json, "a").close()


@contextlib.contextmanager
def _writing(given: str, kind: str) -> Iterator[None]:
    """What goes wrong while a place is written to becomes an InputError that names it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{given}: {error.strerror}; wanted a {kind} to write to") from error


def _image_files(setting: str, folder: str) -> Iterator[Path]:
    if not Path(folder).is_dir():
        raise InputError(f"{setting} {folder} is no folder; wanted one with images")
    files = sorted(path for path in Path(folder).iterdir() if path.is_file() and not path.name.startswith("."))
    if not files:
        raise InputError(f"{setting} {folder} is empty; wanted images")
    yield from files


def _read(setting: str, path: Path) -> np.ndarray:
    try:
        return images.decode(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{setting} {path} does not exist; wanted an image with the name of its HR image") from error
    except (images.UnreadableImage, OSError) as error:
        raise InputError(f"{setting} {path}: {error}") from error
