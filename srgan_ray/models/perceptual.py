"""VGG features for the content loss (Ledig et al. 2017, equation 5, and §3.2 for the layer and the scale).

The paper's network is VGG19. VGG16's weights do as well, where they are the ones to be had: the same blocks with one
convolution less in the last three, cut at the same place.
"""

import hashlib
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from srgan_ray.errors import InputError
from srgan_ray.models.layers import join

CACHED, IMAGENET, RANDOM = "cached", "imagenet", "random"
NUM_BLOCKS = 5
MIN_SIDE_PX = 2 ** (NUM_BLOCKS - 1)  # halved after each block but the last
LAST_RELU = {"vgg19": 36, "vgg16": 30}  # length of torchvision's features up to the ReLU before the last pooling
FEATURE_SCALE = 1 / 12.75
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # which torchvision's networks expect
_WAYS_OUT = (
    f"give --vgg-weights {IMAGENET} to download them (548 MB), --vgg-weights FILE.pth for a copy of "
    f"torchvision's vgg19 or vgg16 weights, or --vgg-weights {RANDOM} for a seeded random VGG19, which is "
    "stamped on the result"
)


class VGGFeatures(nn.Module):
    """Images (N, 3, H, W), RGB in [0, 1], to features, times 1/12.75, after the last ReLU of each of VGG's last
    `num_blocks` blocks. The last ones are (N, 512, H/16, W/16): those of conv5_4 in VGG19, of conv5_3 in VGG16.

    Frozen, always in eval mode. `stamp` says which weights these are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layers: nn.Sequential, stamp: str, num_blocks: int) -> None:
        super().__init__()
        self.layers = join(layers)
        self.stamp = stamp
        self._num_blocks = num_blocks
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        features = (images - self.mean) / self.std
        ends = deque[Tensor](maxlen=self._num_blocks)  # those before need not be kept
        for layer in self.layers:
            if isinstance(layer, nn.MaxPool2d):
                ends.append(features)
            features = layer(features)
        ends.append(features)
        return [end * FEATURE_SCALE for end in ends]

    def train(self, mode: bool = True) -> "VGGFeatures":
        return super().train(False)


def load_vgg(weights: str, num_blocks: int = 1) -> VGGFeatures:
    """VGG19 up to conv5_4 with ImageNet weights: `cached` (torchvision's file, if it was downloaded before),
    `imagenet` (downloaded by torchvision if need be), a FILE, or `random` (seed 0). It gives the features of its last
    `num_blocks` blocks.

    FILE is a state dict of torchvision's vgg19 or vgg16; the classifier's part may be missing from it.
    Raises InputError where the weights are not to be had or do not fit.
    """
    if weights == RANDOM:
        layers = _initialise(_build("vgg19", LAST_RELU["vgg19"]).to_empty(device="cpu"))
        return VGGFeatures(layers, "random, seed 0", num_blocks)
    from torchvision.models import VGG19_Weights  # takes a second and a half, and only this stage needs it

    path = find_weights("--vgg-weights", weights, VGG19_Weights.IMAGENET1K_V1.url, _WAYS_OUT)
    name, layers = load_features("--vgg-weights", path, LAST_RELU)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return VGGFeatures(layers, f"{name}, {path.name}, sha256 {digest}…", num_blocks)


def load_features(setting: str, path: Path, lengths: Mapping[str, int]) -> tuple[str, nn.Sequential]:
    """Of the networks of torchvision that `lengths` names, the one that a file holds the state dict of, and so many
    layers of its features. Raises InputError, naming the setting, for another file."""
    try:
        state = {
            name.removeprefix("features."): tensor.float()  # a file may hold halves
            for name, tensor in torch.load(path, map_location="cpu", weights_only=True).items()
            if name.startswith("features.")
        }
        built = {name: _build(name, length) for name, length in lengths.items()}
        [name] = [name for name, layers in built.items() if layers.state_dict().keys() == state.keys()]
        built[name].load_state_dict(state, assign=True)
    except Exception as error:  # torch.load raises nearly anything for a file that is not its own
        raise InputError(
            f"{setting} {path} is no state dict of torchvision's {' or '.join(lengths)} ({type(error).__name__})"
        ) from error
    return name, built[name]


def _build(name: str, length: int) -> nn.Sequential:
    from torchvision.models import get_model

    with torch.device("meta"):  # their values come later, and what is not taken costs nothing
        layers: nn.Sequential = get_model(name).features[:length]
    return layers


def find_weights(setting: str, weights: str, url: str, ways_out: str) -> Path:
    """The file of `cached`, `imagenet` (downloaded from `url` if need be) or a FILE. Raises InputError, naming the
    setting and the ways out, where it is not to be had."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if weights == IMAGENET and not cached.is_file():
        try:
            torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True)
        except Exception as error:
            raise InputError(f"{setting} {IMAGENET}: {url} cannot be downloaded ({error}); {ways_out}") from error
    path = cached if weights in (CACHED, IMAGENET) else Path(weights)
    if not path.is_file():
        raise InputError(f"no weights at {path} ({setting} {weights}); {ways_out}")
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
