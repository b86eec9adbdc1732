"""LPIPS beside torchmetrics' own, with the same weights."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
from torchvision.models import get_model

from fakes import SMALL, photograph
from srgan_ray.data import images
from srgan_ray.data.degrade import DEGRADATIONS, matlab_bicubic_up
from srgan_ray.errors import InputError
from srgan_ray.evaluation.benchmark import EvaluateConfig, Pair, evaluate, load_lpips
from srgan_ray.evaluation.judge import Judge, ValPairs
from srgan_ray.evaluation.lpips import MIN_SIDE_PX, Lpips, measure_lpips
from srgan_ray.evaluation.metrics import Protocol
from srgan_ray.models.generator import build_generator
from srgan_ray.models.upscaler import Upscaler

NETWORKS = {"alexnet": ("alex", "alexnet-owt-7be5be79.pth"), "vgg16": ("vgg", "vgg16-397923af.pth")}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """torchvision's, with seeded random weights in the place of downloads."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(before)


def save_weights(cache: Path, name: str) -> Path:
    torch.manual_seed(0)
    path = cache / NETWORKS[name][1]
    path.parent.mkdir(exist_ok=True)
    torch.save(get_model(name).state_dict(), path)
    return path


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.tensor(image).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("name", NETWORKS)
def test_the_distance_is_that_of_torchmetrics(name: str, cache: Path) -> None:
    """Which takes the weights from torchvision's cache; random ones shrink features, unlike ImageNet's."""
    lpips = Lpips(str(save_weights(cache, name)))
    hr = photograph(0)
    noisy = np.clip(hr + np.random.default_rng(0).normal(0, 20, hr.shape), 0, 255).astype(np.uint8)
    for sr in (noisy, photograph(1)):
        theirs = learned_perceptual_image_patch_similarity(
            as_tensor(sr), as_tensor(hr), NETWORKS[name][0], normalize=True
        )
        assert lpips(sr, hr) == pytest.approx(theirs.item(), rel=1e-3)
    assert lpips(hr, hr) == 0
    assert lpips(noisy, hr) > 0


def test_weights_are_found_as_those_of_vgg_are_and_stamped(cache: Path) -> None:
    with pytest.raises(
        InputError, match=r"no weights at .*alexnet.*--lpips-weights cached.*; give --lpips-weights imagenet"
    ):
        Lpips("cached")
    path = save_weights(cache, "alexnet")
    lpips = Lpips("cached")
    assert (lpips.name, lpips.hash) == ("alexnet", Lpips(str(path)).hash)
    state = torch.load(path)
    torch.save({key: value for key, value in state.items() if "features" in key}, cache / "features.pth")
    assert Lpips(str(cache / "features.pth")).hash == lpips.hash
    torch.save({key: 2 * value for key, value in state.items()}, cache / "others.pth")
    assert Lpips(str(cache / "others.pth")).hash != lpips.hash
    measured = measure_lpips(lpips, [(photograph(0), photograph(1))], Protocol("psnr", "y", "mixed", "data"))
    expected = Protocol("lpips", "rgb", "mixed", "data", border_px=0, model_hash=lpips.hash)
    assert measured.protocol == expected
    assert f"model {lpips.hash}" in str(expected)
    assert measured.gain_over(dataclasses.replace(measured, value=measured.value + 1)) == 1


def test_what_are_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save(get_model("vgg19", init_weights=False).state_dict(), tmp_path / "vgg19.pth")
    for name in ("text.pth", "vgg19.pth"):
        with pytest.raises(
            InputError, match=f"--lpips-weights .*{name} is no state dict of torchvision's alexnet or vgg16"
        ):
            Lpips(str(tmp_path / name))


@pytest.mark.parametrize("name", NETWORKS)
def test_photographs_that_are_too_small_are_refused(name: str, cache: Path) -> None:
    weights, side = str(save_weights(cache, name)), MIN_SIDE_PX[name]
    image = photograph(0, 200, side)
    assert load_lpips(weights, [Pair("dog", image, image)])(image, photograph(1, 200, side)) > 0
    thin = image[:, : side - 1]
    with pytest.raises(InputError, match=f"--lpips-weights .*: dog has {side - 1}x200 pixels; wanted {side} or more"):
        load_lpips(weights, [Pair("dog", thin, thin)])
    with pytest.raises(RuntimeError, match="too small"):
        Lpips(weights)(thin, thin)


def test_perception_is_lpips_where_there_are_weights(cache: Path, shards: Path) -> None:
    weights = str(save_weights(cache, "alexnet"))
    generator = build_generator(SMALL, 0)
    figures = Judge(str(shards), "opencv_cubic", 2, "fp32", lpips_weights=weights)(generator)
    pairs = ValPairs(str(shards), "opencv_cubic", 2)
    lpips, upscale = Lpips(weights), Upscaler(generator, "fp32")
    expected = np.mean([lpips(upscale(pair.pair.lr), pair.pair.hr) for pair in pairs])
    assert figures["perception"].value == pytest.approx(expected, rel=1e-4)
    protocol = figures["perception"].protocol
    assert (protocol.metric, protocol.model_hash, protocol.border_px) == ("lpips", lpips.hash, 0)
    assert protocol.data_hash == figures["psnr"].protocol.data_hash


def test_a_column_of_evaluate(cache: Path, generator_file: str, tmp_path: Path) -> None:
    (tmp_path / "hr").mkdir()
    for number in range(2):
        (tmp_path / "hr" / f"{number}.png").write_bytes(images.encode(photograph(number), "png"))
    weights = str(save_weights(cache, "alexnet"))
    figures = evaluate(EvaluateConfig(str(tmp_path / "hr"), generator=generator_file, lpips_weights=weights))["figures"]
    hrs = [images.crop_to_multiple(photograph(number), 4) for number in range(2)]
    bicubic = [matlab_bicubic_up(DEGRADATIONS["matlab_bicubic"](hr)) for hr in hrs]
    expected = np.mean([Lpips(weights)(sr, hr) for sr, hr in zip(bicubic, hrs)])
    assert figures["bicubic"]["lpips"] == pytest.approx(expected, abs=1e-4)
    assert {name for name, row in figures.items() if "lpips" in row} == {"bicubic", "sharp"}
