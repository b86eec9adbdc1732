"""VGG19 features for the content loss (Ledig et al. 2017, equation 5, and §3.2 for the layer and the scale)."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from srgan_ray.errors import InputError

CACHED, IMAGENET, RANDOM = "cached", "imagenet", "random"
RELU_5_4 = 36  # length of torchvision's vgg19().features up to and including the ReLU after conv5_4
FEATURE_SCALE = 1 / 12.75
_WAYS_OUT = (
    f"give --vgg-weights {IMAGENET} to download them (548 MB), --vgg-weights FILE.pth for a copy of "
    f"torchvision's vgg19 weights, or --vgg-weights {RANDOM} for a seeded random VGG19, which is stamped on the result"
)


class VGG19Features(nn.Module):
    """Images (N, 3, H, W), RGB in [0, 1], to (N, 512, H/16, W/16): VGG19 after the ReLU of conv5_4, times 1/12.75.

    Frozen, always in eval mode. `stamp` says which weights these are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layers: nn.Sequential, stamp: str) -> None:
        super().__init__()
        self.layers = layers.eval().requires_grad_(False)
        self.stamp = stamp
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers((images - self.mean) / self.std) * FEATURE_SCALE

    def train(self, mode: bool = True) -> "VGG19Features":
        return super().train(False)


def load_vgg19(weights: str) -> VGG19Features:
    """VGG19 up to conv5_4 with ImageNet weights: `cached` (torchvision's file, if it was downloaded before),
    `imagenet` (downloaded by torchvision if need be), a FILE of theirs, or `random` (seed 0).

    Raises InputError where the weights are not to be had or do not fit.
    """
    import torchvision  # takes a second and a half, and only this stage needs it

    vgg = torchvision.models.vgg19(init_weights=False)
    if weights == RANDOM:
        return VGG19Features(_initialise(vgg.features[:RELU_5_4]), "random, seed 0")
    path = _find_weights(weights, torchvision.models.VGG19_Weights.IMAGENET1K_V1.url)
    try:
        vgg.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load raises nearly anything for a file that is not its own
        raise InputError(
            f"--vgg-weights {path} is no state dict of torchvision's vgg19 ({type(error).__name__})"
        ) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return VGG19Features(vgg.features[:RELU_5_4], f"{path.name}, sha256 {digest}…")


def _find_weights(weights: str, url: str) -> Path:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if weights == IMAGENET and not cached.is_file():
        try:
            torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True)
        except Exception as error:
            raise InputError(f"--vgg-weights {IMAGENET}: {url} cannot be downloaded ({error}); {_WAYS_OUT}") from error
    path = cached if weights in (CACHED, IMAGENET) else Path(weights)
    if not path.is_file():
        raise InputError(f"no VGG19 weights at {path} (--vgg-weights {weights}); {_WAYS_OUT}")
    return path


def _initialise(layers: nn.Sequential) -> nn.Sequential:
    """He's initialisation by fan-in, seed 0: features keep the size of the input, as trained ones about do.

    torchvision's own, by fan-out, shrinks the power of the features 170 times, and the content loss as much.
    """
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layers
