"""SRResNet, the generator of SRGAN (Ledig et al. 2017, figure 4)."""

import copy
import dataclasses
import math

import torch
from torch import Tensor, nn

from srgan_ray.data.degrade import SCALE
from srgan_ray.errors import InputError
from srgan_ray.models.layers import Layers, PReLU, ShuffledConv2d, join

# How far, in LR pixels, a feature can change what is rendered: a kernel of 3 at LR's size, one at twice and one of 9 at
# four times that size.
RENDER_RADIUS_PX = 1 + 1 / 2 + 4 / SCALE


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """The generator's size; the paper's is 16 blocks of 64 features."""

    num_blocks: int = 16
    """Residual blocks."""
    num_features: int = 64
    """Channels of every hidden layer."""

    def __post_init__(self) -> None:
        if self.num_blocks < 1 or self.num_features < 1:
            raise InputError(
                f"--generator.num-blocks {self.num_blocks} --generator.num-features {self.num_features}; "
                "wanted 1 or more of both"
            )


class ResidualBlock(nn.Module):
    """conv, BatchNorm, PReLU, conv, BatchNorm, plus the input."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.body = Layers(
            nn.Conv2d(num_features, num_features, 3, padding=1, bias=False),
            nn.BatchNorm2d(num_features),
            PReLU(),
            nn.Conv2d(num_features, num_features, 3, padding=1, bias=False),
            _zero_batchnorm(num_features),
        )

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.body(features, added=features)
        return result


class Generator(nn.Module):
    """LR (N, 3, h, w) in [0, 1] to SR (N, 3, 4h, 4w) in about [0, 1], RGB; clipping is left to `images.to_levels`.

    The last convolution works in [-1, 1], the range of HR in the paper (§3.2); the graph itself brings it to [0, 1].
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.num_features
        self.head = nn.Sequential(nn.Conv2d(3, width, 9, padding=4), PReLU())
        self.trunk = Layers(
            *(ResidualBlock(width) for _ in range(config.num_blocks)),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            _zero_batchnorm(width),
        )
        stages = round(math.log2(SCALE))
        layers: list[nn.Module] = []
        for stage in range(stages):
            layers += [nn.Conv2d(width, 4 * width, 3, padding=1), PReLU()]  # PReLU and shuffle may change places
            layers += [nn.PixelShuffle(2)] if stage < stages - 1 else []  # the last one is the tail's
        self.upsample = nn.Sequential(*layers)
        self.tail = ShuffledConv2d(width, 3, 9, padding=4)

    def forward(self, lr: Tensor) -> Tensor:
        return self.render(self.extract(lr))

    def extract(self, lr: Tensor) -> Tensor:
        """LR to features (N, C, h, w): all that is done at LR's size."""
        shallow = self.head(lr)
        features: Tensor = self.trunk(shallow, added=shallow)
        return features

    def render(self, features: Tensor) -> Tensor:
        """Features to SR: all that is done at a larger size."""
        return (self.tail(self.upsample(features)) + 1) / 2

    @property
    def receptive_radius_px(self) -> int:
        """How far, in LR pixels, an input pixel can change the output: 40 for 16 blocks (39.5 before rounding up)."""
        head, blocks, trunk_end = 4, 2 * self.config.num_blocks, 1
        return math.ceil(head + blocks + trunk_end + RENDER_RADIUS_PX)


def _zero_batchnorm(num_features: int) -> nn.BatchNorm2d:
    """The last of a residual branch: with scale 0 at first, the branch begins as nothing (Goyal et al. 2017, §5.1).

    450 steps of a small generator reached 25.5 dB so, and 23.3 dB with PyTorch's scale of 1.
    """
    layer = nn.BatchNorm2d(num_features)
    nn.init.zeros_(layer.weight)
    return layer


def fold_batchnorm(generator: Generator) -> Generator:
    """A copy in eval mode with fewer passes over memory: each BatchNorm is made part of the convolution before it, and
    each PReLU one step with it.

    The output is the same up to rounding (in fp32 within 1e-5 of a range of 1). It cannot be trained or saved.
    """
    folded = copy.deepcopy(generator).eval()
    for block in folded.modules():
        for name, layers in block.named_children():
            if isinstance(layers, nn.Sequential):
                setattr(block, name, join(layers))
    return folded


def build_generator(config: GeneratorConfig, seed: int) -> Generator:
    """A generator with PyTorch's default initial weights, drawn from `seed`; torch's global RNG is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Generator(config)
