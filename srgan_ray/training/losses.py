"""The losses of SRGAN (Ledig et al. 2017, §2.2). All take and give tensors and have no state."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from srgan_ray.data.degrade import SCALE
from srgan_ray.evaluation.diagnostics import LEAST_VARIANCE


def pixel_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean squared error, equation 4, of images in [0, 1] (a quarter of the paper's, whose images are in [-1, 1])."""
    return mse_loss(sr.float(), hr.float())


ImageLoss = Callable[[Tensor, Tensor], Tensor]


def pattern_loss(sr: Tensor, hr: Tensor, over_ranks: Callable[[Tensor], Tensor] = lambda sums: sums) -> Tensor:
    """The variance of the mean of (sr - hr) over the 4x4 phases of the pixel shuffles, averaged over the colours.
    Images (N, 3, H, W), sides multiples of 4. `over_ranks` gives the mean of a tensor over all ranks: the loss is of
    the whole batch, and not the mean of those of its parts.

    It sees patterns that are everywhere alike, which a content loss behind strided layers hardly does, and nothing
    else: neither colour nor texture. `diagnostics.checkerboard` measures the same. As there, the means are weighted by
    the inverse of the local variance, here HR's in each block of 4x4: where HR is even a pattern is seen, and where it
    is not the mean of a batch is hardly more than noise.
    """
    residual = _to_blocks(sr.float() - hr.float())
    weight = 1 / (LEAST_VARIANCE / 255**2 + _to_blocks(hr.float()).var(dim=(3, 5), correction=0, keepdim=True))
    sums = (weight * residual).sum(dim=(0, 2, 4))
    sums, weights = over_ranks(torch.stack([sums, weight.sum(dim=(0, 2, 4)).expand_as(sums)]))
    means = sums / weights
    return means.var(dim=(1, 2), correction=0).mean()


def _to_blocks(images: Tensor) -> Tensor:
    """(N, C, 4h, 4w) as (N, C, h, 4, w, 4)."""
    return images.unflatten(3, (-1, SCALE)).unflatten(2, (-1, SCALE))


def colour_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean squared error of the mean colour of each image (N, 3, H, W): `diagnostics.colour_drift`, as a loss."""
    return mse_loss(sr.float().mean(dim=(2, 3)), hr.float().mean(dim=(2, 3)))


# Of SR and HR themselves.
IMAGE_LOSSES: dict[str, ImageLoss] = {"pixel": pixel_loss, "pattern": pattern_loss, "colour": colour_loss}


def content_loss(sr_features: list[Tensor], hr_features: list[Tensor]) -> Tensor:
    """Mean squared error of VGG features, equation 5, summed over the blocks where there are more than the paper's one;
    `perceptual.VGGFeatures` has scaled them by 1/12.75."""
    return torch.stack([mse_loss(sr.float(), hr.float()) for sr, hr in zip(sr_features, hr_features)]).sum()


def adversarial_loss(sr_logits: Tensor) -> Tensor:
    """-log D(G(lr)), equation 6: small where the discriminator takes SR for a photograph."""
    return binary_cross_entropy_with_logits(sr_logits.float(), torch.ones_like(sr_logits, dtype=torch.float32))


def discriminator_loss(hr_logits: Tensor, sr_logits: Tensor) -> Tensor:
    """-log D(hr) - log(1 - D(G(lr))), equation 2."""
    real = binary_cross_entropy_with_logits(hr_logits.float(), torch.ones_like(hr_logits, dtype=torch.float32))
    generated = binary_cross_entropy_with_logits(sr_logits.float(), torch.zeros_like(sr_logits, dtype=torch.float32))
    return real + generated
