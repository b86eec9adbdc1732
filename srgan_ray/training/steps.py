"""The two steps of SRGAN (Ledig et al. 2017) on one page: no files, no ranks, no schedule.

1. `pretrain_step`: the generator alone, mean squared error. The result is SRResNet.
2. `adversarial_step`: discriminator and generator in turn, beginning from 1. The result is SRGAN.

The networks may be wrapped for data-parallel training; batches are `lr` (N, 3, h, w) and `hr` (N, 3, 4h, 4w), RGB in
[0, 1]. Each step returns its loss terms as scalar tensors on the networks' device, for the log.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from srgan_ray.data.feed import Batch
from srgan_ray.models.precision import Autocast
from srgan_ray.training.losses import ImageLoss, adversarial_loss, content_loss, discriminator_loss, pixel_loss


class Weights(NamedTuple):
    """Of the generator's losses."""

    content: float
    adversarial: float
    pixel: float
    pattern: float
    colour: float


def pretrain_step(generator: nn.Module, optimizer: Optimizer, batch: Batch, autocast: Autocast) -> dict[str, Tensor]:
    """One step of the generator towards the HR pixels (equation 4). Returns `loss`."""
    with autocast():
        sr = generator(batch.lr)
    loss = pixel_loss(sr, batch.hr)
    descend(optimizer, loss)
    return {"loss": loss.detach()}


def adversarial_step(
    generator: nn.Module,
    discriminator: nn.Module,
    vgg: nn.Module,
    generator_optimizer: Optimizer,
    discriminator_optimizer: Optimizer,
    weights: Weights,
    image_losses: Mapping[str, ImageLoss],
    halfway: Callable[[Tensor], Tensor] | None,
    batch: Batch,
    autocast: Autocast,
) -> dict[str, Tensor]:
    """One step of the discriminator (equation 2), then one of the generator (equation 3) against it.

    `image_losses` are the losses on SR and HR themselves, by their names in `weights`.
    `halfway` is the generator blended with another (LR to SR), if it is to be trained so too: by the pixel loss.

    Returns `loss` (the weighted content, adversarial, pixel, pattern, colour and half-way losses), each of these as
    `loss_…` without its weight, `loss_discriminator`, and the mean of D(hr) and D(G(lr)) as `d_hr` and `d_sr`.
    """
    with autocast():
        sr = generator(batch.lr)

    # Discriminator: both verdicts in one pass, which is what data-parallel wrappers can follow.
    discriminator.requires_grad_(True)
    with autocast():
        hr_logits, sr_logits = discriminator(batch.hr, sr.detach())
    d_loss = discriminator_loss(hr_logits, sr_logits)
    descend(discriminator_optimizer, d_loss)

    # Generator: gradients flow through the discriminator and VGG19, but not into their weights.
    discriminator.requires_grad_(False)
    terms = {}
    with autocast():
        terms["content"] = content_loss(vgg(sr), _without_gradient(vgg, batch.hr))
        terms["adversarial"] = adversarial_loss(*discriminator(sr))
    terms |= {name: image_loss(sr, batch.hr) for name, image_loss in image_losses.items()}
    if halfway:
        with autocast():
            blended = halfway(batch.lr)
        terms["halfway"] = pixel_loss(blended, batch.hr)
    weight = {**weights._asdict(), "halfway": weights.pixel}
    loss = torch.stack([weight[name] * term for name, term in terms.items()]).sum()
    descend(generator_optimizer, loss)

    return {
        "loss": loss.detach(),
        **{f"loss_{name}": term.detach() for name, term in terms.items()},
        "loss_discriminator": d_loss.detach(),
        "d_hr": hr_logits.detach().float().sigmoid().mean(),
        "d_sr": sr_logits.detach().float().sigmoid().mean(),
    }


def gradient_norm(term: Callable[[Tensor], Tensor], sr: Tensor) -> float:
    """Norm of the gradient of a loss term by SR (N, 3, H, W): how strongly the term pulls; 0 where it does not."""
    sr = sr.detach().requires_grad_()
    loss = term(sr)
    if not loss.requires_grad:
        return 0.0
    (gradient,) = torch.autograd.grad(loss, sr)
    return gradient.float().norm().item()


def descend(optimizer: Optimizer, loss: Tensor) -> None:
    """Clear the gradients, compute those of `loss`, and take the optimizer's step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _without_gradient(vgg: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        features: list[Tensor] = vgg(images)
    return features
