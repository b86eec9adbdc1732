"""The losses of SRGAN (Ledig et al. 2017, §2.2). All take and give tensors and have no state."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, mse_loss

from srgan_ray.data.degrade import SCALE

_LEAST_VARIANCE = 16 / 255**2  # as the diagnostic's


def pixel_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean squared error, equation 4, of images in [0, 1] (a quarter of the paper's, whose images are in [-1, 1])."""
    return mse_loss(sr.float(), hr.float())


def pattern_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """The variance of the mean of (sr - hr) over the 4x4 phases of the pixel shuffles, averaged over the colours.
    Images (N, 3, H, W), sides multiples of 4.

    It sees patterns that are everywhere alike, which a content loss behind strided layers hardly does, and nothing
    else: neither colour nor texture. `diagnostics.checkerboard` measures the same, and like it the means are weighted
    by the inverse of HR's local variance: where HR is even a pattern is seen, and where it is not the mean of a batch
    is hardly more than noise. Unweighted, that noise alone was 2e-6, a checkerboard of 0.35 levels.
    """
    weight = 1 / (_LEAST_VARIANCE + _local_variance(hr.float()))
    residual = sr.float() - hr.float()
    means = _sum_phases(weight * residual) / _sum_phases(weight)
    return means.var(dim=(1, 2), correction=0).mean()


def _local_variance(images: Tensor) -> Tensor:
    deviation = images - avg_pool2d(images, 5, stride=1, padding=2, count_include_pad=False)
    return avg_pool2d(deviation.square(), 9, stride=1, padding=4, count_include_pad=False)


def _sum_phases(images: Tensor) -> Tensor:
    """(N, C, 4h, 4w) summed over the pixels of each phase: (C, 4, 4)."""
    return images.unflatten(3, (-1, SCALE)).unflatten(2, (-1, SCALE)).sum(dim=(0, 2, 4))


def content_loss(sr_features: Tensor, hr_features: Tensor) -> Tensor:
    """Mean squared error of VGG features, equation 5; `perceptual.VGGFeatures` has scaled them by 1/12.75."""
    return mse_loss(sr_features.float(), hr_features.float())


def adversarial_loss(sr_logits: Tensor) -> Tensor:
    """-log D(G(lr)), equation 6: small where the discriminator takes SR for a photograph."""
    return binary_cross_entropy_with_logits(sr_logits.float(), torch.ones_like(sr_logits, dtype=torch.float32))


def discriminator_loss(hr_logits: Tensor, sr_logits: Tensor) -> Tensor:
    """-log D(hr) - log(1 - D(G(lr))), equation 2."""
    real = binary_cross_entropy_with_logits(hr_logits.float(), torch.ones_like(hr_logits, dtype=torch.float32))
    generated = binary_cross_entropy_with_logits(sr_logits.float(), torch.zeros_like(sr_logits, dtype=torch.float32))
    return real + generated
