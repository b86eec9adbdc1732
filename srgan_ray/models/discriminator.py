"""The discriminator of SRGAN (Ledig et al. 2017, figure 4)."""

import dataclasses

import torch
from torch import Tensor, nn

from srgan_ray.errors import InputError
from srgan_ray.models.layers import ConvLeakyReLU, Layers

SHRINKS_BY = 2**4  # the side of a crop to that of its last features, rounded up


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator's size; the paper's begins with 64 features and ends in 1024 units."""

    num_features: int = 64
    """Channels of the first convolution; they double three times, to 512 in the paper."""
    num_units: int = 1024
    """Width of the dense layer before the logit."""

    def __post_init__(self) -> None:
        if self.num_features < 1 or self.num_units < 1:
            raise InputError(
                f"--discriminator.num-features {self.num_features} --discriminator.num-units {self.num_units}; "
                "wanted 1 or more of both"
            )


class Discriminator(nn.Module):
    """Batches of crops (N, 3, crop_px, crop_px) in [0, 1] to their logits (N, 1): above 0 for "a photograph", below
    for "generated".

    BatchNorm sees each batch by itself. The dense layers, with four fifths of the weights, take all batches at once,
    and always in fp32: at these few rows their cost is that of moving the weights, and a copy of them in bf16, and
    their gradient back, moves more. On 2 times 16 crops of 96 pixels forward and backward took 565 ms of a core with
    autocast and a batch at a time, 508 ms so.

    The paper's sigmoid is part of the loss (binary cross entropy with logits), where it cannot saturate.
    """

    def __init__(self, config: DiscriminatorConfig, crop_px: int) -> None:
        super().__init__()
        width = config.num_features
        layers: list[nn.Module] = [ConvLeakyReLU(nn.Conv2d(3, width, 3, padding=1), 0.2)]
        plan = [(1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2)]  # (times width, stride), k3n64s2 … k3n512s2
        channels, side = width, crop_px
        for times, stride in plan:
            layers += [
                nn.Conv2d(channels, times * width, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(times * width),
                nn.LeakyReLU(0.2),
            ]
            channels, side = times * width, (side + stride - 1) // stride
        self.features = Layers(*layers)
        self.verdict = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * side * side, config.num_units),
            nn.LeakyReLU(0.2),
            nn.Linear(config.num_units, 1),
        )

    def forward(self, *batches: Tensor) -> tuple[Tensor, ...]:
        features = [self.features(2 * crops - 1) for crops in batches]
        with torch.autocast(features[0].device.type, enabled=False):
            logits = self.verdict(torch.cat(features).float())
        return logits.split([len(crops) for crops in batches])


def build_discriminator(config: DiscriminatorConfig, crop_px: int, seed: int) -> Discriminator:
    """A discriminator with PyTorch's default initial weights, drawn from `seed`; the global RNG is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Discriminator(config, crop_px)
