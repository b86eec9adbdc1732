"""The released generators keep what their card says, on photographs that everybody has."""

from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut, chelsea, coffee

from srgan_ray.data import images
from srgan_ray.evaluation.benchmark import FROM_FILES, compare, load_pairs
from srgan_ray.evaluation.metrics import psnr
from srgan_ray.models.artifact import RELEASED, interpolate, load_generator
from srgan_ray.models.upscaler import Upscaler
from srgan_ray.serving.handler import Handler, ModelConfig


@pytest.fixture(scope="module")
def upscalers() -> dict[str, Upscaler]:
    return {name: Upscaler(load_generator(path)[0]) for name, path in RELEASED.items()}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photographs")
    for name, photograph in {"astronaut": astronaut(), "chelsea": chelsea(), "coffee": coffee()}.items():
        (folder / f"{name}.png").write_bytes(images.encode(photograph, "png"))
    return str(folder)


def sharpness(levels: np.ndarray) -> float:
    """Mean squared difference of neighbours."""
    return float(np.square(np.diff(levels.astype(np.float64), axis=1)).mean())


@pytest.mark.parametrize("degradation", ["opencv_cubic", "matlab_bicubic"])
def test_one_gains_and_the_other_is_sharp(upscalers: dict[str, Upscaler], photographs: str, degradation: str) -> None:
    pairs = load_pairs(photographs, "", degradation)
    table = compare(pairs, upscalers, degradation)
    bicubic, faithful, perceptual = (table[name] for name in ("bicubic", "psnr", "perceptual"))
    assert faithful["psnr_y"].gain_over(bicubic["psnr_y"]) > 1
    assert perceptual["psnr_y"].value < faithful["psnr_y"].value
    assert perceptual["colour_drift"].value < 1.5
    assert perceptual["checkerboard"].value < 0.25
    assert perceptual["consistency"].value > 30
    for pair in pairs:
        soft, sharp, hr = (sharpness(levels) for levels in (
            upscalers["psnr"](pair.lr), upscalers["perceptual"](pair.lr), pair.hr))  # fmt: skip
        assert abs(np.log(sharp / hr)) < abs(np.log(soft / hr)), "the perceptual one is about as sharp as HR"


def test_blends_lie_between_the_two(photographs: str) -> None:
    """Nearer to the faithful one and farther from the sharp one the higher the fidelity; nearer to HR too, until they
    are as good as the faithful one; and their colours are less than half a level off, as those of the two are."""
    perceptual, faithful = (load_generator(RELEASED[name])[0] for name in ("perceptual", "psnr"))
    blends = {str(fidelity): interpolate(perceptual, faithful, fidelity) for fidelity in (0.0, 0.25, 0.5, 0.75, 1.0)}
    steps = {name: Upscaler(blend) for name, blend in blends.items()}
    pairs = load_pairs(photographs, "", "matlab_bicubic")
    for pair in pairs:
        outputs = [upscale(pair.lr) for upscale in steps.values()]
        to_sharp = [psnr(outputs[0], output, "y") for output in outputs[1:]]
        to_faithful = [psnr(outputs[-1], output, "y") for output in outputs[:-1]]
        assert to_sharp == sorted(to_sharp, reverse=True), pair.name
        assert to_faithful == sorted(to_faithful), pair.name
    table = compare(pairs, steps, "matlab_bicubic")
    to_hr, drift = ([table[name][figure].value for name in steps] for figure in ("psnr_y", "colour_drift"))
    assert to_hr[:-1] == sorted(to_hr[:-1])
    assert to_hr[-1] > to_hr[-2] - 0.05
    assert max(drift) < 0.5


def test_the_published_set(upscalers: dict[str, Upscaler], benchmarks: Path) -> None:
    pairs = load_pairs(str(benchmarks / "Set5" / "HR"), str(benchmarks / "Set5" / "LR_bicubic_x4"), FROM_FILES)
    assert compare(pairs, {"psnr": upscalers["psnr"]}, FROM_FILES)["psnr"]["psnr_y"].value > 31.4


def test_the_cards_tell_how_they_were_made() -> None:
    cards = {name: load_generator(path)[1] for name, path in RELEASED.items()}
    assert {name: (card.name, card.stage, card.degradation) for name, card in cards.items()} == {
        "psnr": ("psnr", "pretrain", "mixed"),
        "perceptual": ("perceptual", "train", "mixed"),
    }
    assert "random" not in cards["perceptual"].vgg_weights
    assert cards["perceptual"].config["fidelity_generator"] == "psnr_66000"


def test_the_faithful_one_is_served_where_nothing_is_said() -> None:
    assert Handler(ModelConfig()).card.name == "psnr"
