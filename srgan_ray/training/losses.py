"""The losses of SRGAN (Ledig et al. 2017, §2.2). All take and give tensors and have no state."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from srgan_ray.data.degrade import SCALE


def pixel_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean squared error, equation 4, of images in [0, 1] (a quarter of the paper's, whose images are in [-1, 1])."""
    return mse_loss(sr.float(), hr.float())


def pattern_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """The variance of the mean of (sr - hr) over the 4x4 phases of the pixel shuffles, averaged over the colours.
    Images (N, 3, H, W), sides multiples of 4.

    It sees patterns that are everywhere alike, which a content loss behind strided layers hardly does, and nothing
    else: neither colour nor texture. `diagnostics.checkerboard` measures the same.
    """
    residual = sr.float() - hr.float()
    phases = residual.unflatten(3, (-1, SCALE)).unflatten(2, (-1, SCALE))
    return phases.mean(dim=(0, 2, 4)).var(dim=(1, 2), correction=0).mean()


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
