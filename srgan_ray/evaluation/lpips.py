"""LPIPS: how unlike two images are in the features of a network that knows ImageNet.

Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", its authors' version 0.1:
features of AlexNet (which they advise for measuring) or VGG16, weighted by linear layers that were fitted to what
people see. The linear layers come with torchmetrics; the networks' weights are torchvision's.
"""

import dataclasses
import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srgan_ray.data.feed import stack
from srgan_ray.evaluation.metrics import Measurement, Protocol, average
from srgan_ray.models.perceptual import CACHED, IMAGENET, IMAGENET_MEAN, IMAGENET_STD, find_weights, load_features
from srgan_ray.models.precision import best_device

SETTING = "--lpips-weights"
RELUS = {
    "alexnet": (1, 4, 7, 9, 11),
    "vgg16": (3, 8, 15, 22, 29),
}  # whose outputs are compared, in torchvision's features
MIN_SIDE_PX = {"alexnet": 31, "vgg16": 16}  # for one output at the last of them
LINEAR_LAYERS = {"alexnet": "alex.pth", "vgg16": "vgg.pth"}
URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
_EPSILON = 1e-10
_WAYS_OUT = (
    f"give {SETTING} {IMAGENET} to download AlexNet's (233 MB), {CACHED} where torchvision has them already, or a "
    "FILE, a copy of torchvision's alexnet or vgg16 weights"
)


class Lpips:
    """Raises InputError for weights that are not to be had or do not fit: `cached`, `imagenet` or a FILE, as
    `load_vgg` takes them, of AlexNet; a FILE may also be VGG16's."""

    def __init__(self, weights: str) -> None:
        path = find_weights(SETTING, weights, URL, _WAYS_OUT)
        self.name, layers = load_features(SETTING, path, {name: relus[-1] + 1 for name, relus in RELUS.items()})
        linear = _load_linear_layers(self.name)
        self.hash = f"{self.name}-{_hash([*layers.state_dict().values(), *linear])}"
        self.min_side_px = MIN_SIDE_PX[self.name]
        self._device = best_device()
        self._layers = layers.eval().requires_grad_(False).to(self._device)
        self._linear = dict(zip(RELUS[self.name], (weight.to(self._device) for weight in linear)))

    @torch.inference_mode()
    def __call__(self, sr: np.ndarray, hr: np.ndarray) -> float:
        """Of two images of one size, `uint8` RGB (H, W, 3); 0 or more, lower is better."""
        total = torch.zeros((), device=self._device)
        ours, theirs = self._normalise(sr), self._normalise(hr)
        for index, layer in enumerate(self._layers):
            ours, theirs = layer(ours), layer(theirs)
            if index in self._linear:
                differences = (_to_unit_length(ours) - _to_unit_length(theirs)).square()
                total += (self._linear[index] * differences).sum(1).mean()
        return total.item()

    def _normalise(self, image: np.ndarray) -> Tensor:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return ((stack([image]) - mean) / std).to(self._device)


def measure_lpips(lpips: Lpips, pairs: Iterable[tuple[np.ndarray, np.ndarray]], protocol: Protocol) -> Measurement:
    """The mean of pairs of SR and HR with its own protocol, of the data and degradation that another one names."""
    whole = dataclasses.replace(protocol, metric="lpips", colour="rgb", border_px=0, model_hash=lpips.hash)
    return average((lpips(sr, hr) for sr, hr in pairs), whole)


def _to_unit_length(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + _EPSILON)


def _load_linear_layers(name: str) -> list[Tensor]:
    """A weight for each channel, (1, channels, 1, 1), by the layers; read without importing torchmetrics."""
    found = importlib.util.find_spec("torchmetrics")
    assert found
    assert found.origin
    path = Path(found.origin).parent / "functional" / "image" / "lpips_models" / LINEAR_LAYERS[name]
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{number}.model.1.weight"] for number in range(len(RELUS[name]))]


def _hash(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
