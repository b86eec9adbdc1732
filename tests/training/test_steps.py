import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from srgan_ray.data.feed import Batch
from srgan_ray.models.discriminator import DiscriminatorConfig, build_discriminator
from srgan_ray.models.generator import GeneratorConfig, build_generator
from srgan_ray.models.perceptual import load_vgg
from srgan_ray.models.precision import autocast
from srgan_ray.training.losses import (
    IMAGE_LOSSES,
    adversarial_loss,
    colour_loss,
    content_loss,
    discriminator_loss,
    pattern_loss,
    pixel_loss,
)
from srgan_ray.training.state import adam
from srgan_ray.training.steps import Weights, adversarial_step, gradient_norm, pretrain_step

FP32 = autocast("fp32", torch.device("cpu"))
PAPER = Weights(content=1.0, adversarial=1e-3, pixel=0.0, pattern=0.0, colour=0.0)


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    hr = nn.functional.interpolate(torch.rand(4, 3, 6, 6), size=48, mode="bicubic").clamp(0, 1)
    return Batch(nn.functional.avg_pool2d(hr, 4), hr)


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    return load_vgg("random")


class Gan:
    """A small GAN and its step."""

    def __init__(self, vgg: nn.Module) -> None:
        self.vgg = vgg
        self.generator = build_generator(GeneratorConfig(1, 8), 0).train()
        for module in self.generator.modules():  # which begin at 0, where nothing but themselves has a gradient
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
        self.discriminator = build_discriminator(DiscriminatorConfig(4, 16), 48, 0).train()
        self.optimizers = adam(self.generator, 1e-3), adam(self.discriminator, 1e-3)

    def step(self, batch: Batch, weights: Weights = PAPER, cast=FP32) -> dict[str, torch.Tensor]:
        networks = self.generator, self.discriminator, self.vgg
        return adversarial_step(*networks, *self.optimizers, weights, IMAGE_LOSSES, None, batch, cast)


def moved(network: nn.Module, before: dict[str, torch.Tensor]) -> float:
    return max((value - before[name]).abs().max().item() for name, value in network.named_parameters())


def test_pretraining_learns_the_pixels(batch: Batch) -> None:
    generator = build_generator(GeneratorConfig(1, 8), 0).train()
    optimizer = adam(generator, 1e-2)
    losses = [pretrain_step(generator, optimizer, batch, FP32)["loss"].item() for _ in range(60)]
    assert losses[0] == pytest.approx(pixel_loss(build_generator(GeneratorConfig(1, 8), 0)(batch.lr), batch.hr).item())
    assert losses[-1] < 0.5 * losses[0]


def test_pixel_loss_is_the_mean_squared_error_outside_the_range_too() -> None:
    """No clamp in the graph: values out of range still get a gradient."""
    sr = torch.full((1, 3, 2, 2), 1.5, requires_grad=True)
    loss = pixel_loss(sr, torch.ones(1, 3, 2, 2))
    loss.backward()
    assert loss.item() == pytest.approx(0.25)
    assert sr.grad is not None
    assert (sr.grad > 0).all()


@pytest.mark.parametrize("logit", [20.0, 200.0])
def test_adversarial_losses_keep_their_gradient_at_large_logits(logit: float) -> None:
    """Sigmoid and BCE apart would give 0 there, from 17 on for SR that passes and from 104 on for what does not."""
    caught, denied, fooled = (torch.tensor([[value]], requires_grad=True) for value in (-logit, -logit, logit))
    adversarial_loss(caught).backward()
    discriminator_loss(denied, fooled).backward()
    for logits, expected in ((caught, -1), (denied, -1), (fooled, 1)):
        assert logits.grad is not None
        assert logits.grad.item() == pytest.approx(expected, abs=1e-3)
    assert adversarial_loss(torch.zeros(3, 1)).item() == pytest.approx(0.6931, abs=1e-4)
    assert discriminator_loss(torch.full((2, 1), 9.0), torch.full((2, 1), -9.0)).item() < 1e-3


def test_one_step_moves_both_networks_and_only_them(batch: Batch, vgg: nn.Module) -> None:
    gan = Gan(vgg)
    before = [copy.deepcopy(dict(network.named_parameters())) for network in (gan.generator, gan.discriminator, vgg)]
    terms = gan.step(batch)
    assert moved(gan.generator, before[0]) > 0
    assert moved(gan.discriminator, before[1]) > 0
    assert moved(vgg, before[2]) == 0
    losses = {"content", "adversarial", "pixel", "pattern", "colour", "discriminator"}
    assert set(terms) == {"loss", "d_hr", "d_sr"} | {f"loss_{name}" for name in losses}
    assert all(term.isfinite() and not term.requires_grad and term.ndim == 0 for term in terms.values())
    assert terms["loss"] == pytest.approx((terms["loss_content"] + 1e-3 * terms["loss_adversarial"]).item())


def test_the_generators_step_leaves_no_gradient_in_the_discriminator(batch: Batch, vgg: nn.Module) -> None:
    """D's gradient after the step is that of its own loss, and nothing was added by G's."""
    gan = Gan(vgg)
    twin = copy.deepcopy(gan.discriminator)
    sr = copy.deepcopy(gan.generator)(batch.lr).detach()
    gan.step(batch)
    discriminator_loss(*twin(batch.hr), *twin(sr)).backward()
    for (name, ours), (_, theirs) in zip(gan.discriminator.named_parameters(), twin.named_parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_the_verdicts_are_the_probabilities_that_the_discriminators_step_began_with(
    batch: Batch, vgg: nn.Module
) -> None:
    gan = Gan(vgg)
    twin, sr = copy.deepcopy(gan.discriminator), copy.deepcopy(gan.generator)(batch.lr).detach()
    terms = gan.step(batch)
    for name, images in (("d_hr", batch.hr), ("d_sr", sr)):
        (logits,) = twin(images)
        assert terms[name].item() == pytest.approx(logits.sigmoid().mean().item(), rel=1e-4), name


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_both_terms_reach_the_generator(batch: Batch, vgg: nn.Module, weight: float) -> None:
    """The content loss alone (weight 0) already moves every parameter; the adversarial term adds to it."""
    gan = Gan(vgg)
    gan.step(batch, PAPER._replace(adversarial=weight))
    gradients = {name: parameter.grad for name, parameter in gan.generator.named_parameters()}
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients.values())
    content_only = Gan(vgg)
    content_only.step(batch, PAPER._replace(adversarial=0.0))
    differs = any(
        not torch.allclose(gradients[name], parameter.grad)
        for name, parameter in content_only.generator.named_parameters()
    )
    assert differs == (weight > 0)


@pytest.mark.parametrize(("name", "loss"), [("pixel", pixel_loss), ("pattern", pattern_loss), ("colour", colour_loss)])
def test_a_term_is_added_with_its_weight(batch: Batch, vgg: nn.Module, name: str, loss: Callable) -> None:
    without, terms = Gan(vgg).step(batch), Gan(vgg).step(batch, PAPER._replace(**{name: 2.0}))
    assert terms["loss"].item() == pytest.approx((without["loss"] + 2 * without[f"loss_{name}"]).item())
    sr = Gan(vgg).generator(batch.lr)
    assert terms[f"loss_{name}"].item() == pytest.approx(loss(sr, batch.hr).item())


def test_the_content_loss_has_a_weight(batch: Batch, vgg: nn.Module) -> None:
    paper, heavy = Gan(vgg).step(batch), Gan(vgg).step(batch, PAPER._replace(content=3.0))
    assert heavy["loss"].item() == pytest.approx((paper["loss"] + 2 * paper["loss_content"]).item())


def test_the_content_loss_is_the_sum_over_blocks(batch: Batch) -> None:
    vgg = load_vgg("random", 5)
    hr = vgg(batch.hr)
    for i, features in enumerate(hr):
        moved = [other + 0.1 if other is features else other for other in hr]
        assert content_loss(moved, hr).item() == pytest.approx(0.01, rel=1e-4), i
    assert content_loss([features + 0.1 for features in hr], hr).item() == pytest.approx(0.05, rel=1e-4)


def test_the_colour_loss_sees_the_mean_colour_of_each_image_and_nothing_else() -> None:
    torch.manual_seed(0)
    hr = torch.rand(2, 3, 16, 24)
    shifts = torch.tensor([[0.3, 0, 0], [-0.3, 0, 0]]).view(2, 3, 1, 1)  # which cancel in the mean over both
    assert colour_loss(hr + shifts, hr).item() == pytest.approx(0.03)
    assert colour_loss(hr.flip(3), hr).item() == pytest.approx(0, abs=1e-12)


def test_the_pattern_loss_sees_what_is_everywhere_alike_and_nothing_else() -> None:
    torch.manual_seed(0)
    hr = torch.rand(3, 3, 16, 24)
    pattern = torch.tensor([[0.1, -0.1], [-0.1, 0.1]]).repeat(8, 12)
    assert pattern_loss(hr + pattern, hr).item() == pytest.approx(0.01)
    assert pattern_loss(hr + torch.tensor([0.3, 0, 0]).view(3, 1, 1), hr).item() == pytest.approx(0, abs=1e-12)
    even = torch.full_like(hr, 0.5)
    texture = torch.randn(1, 1, 4, 6).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert pattern_loss(even + texture - texture.mean(), even).item() == pytest.approx(0, abs=1e-12)
    moving = pattern.repeat(3, 3, 1, 1) * torch.tensor([1, -1]).repeat_interleave(12)  # its sign changes half-way
    assert pattern_loss(even + moving, even).item() == pytest.approx(0, abs=1e-12)


def test_the_pattern_loss_looks_where_hr_is_even() -> None:
    """Half of HR is even and has a faint pattern; the noise of the other half does not drown it."""
    torch.manual_seed(0)
    hr = torch.full((2, 3, 64, 64), 0.5)
    hr[..., 32:] = torch.rand(2, 3, 64, 32)
    pattern = torch.tensor([[1, -1], [-1, 1]]).repeat(32, 16) / 255
    sr = hr.clone()
    sr[..., :32] += pattern
    sr[..., 32:] += 0.1 * torch.randn(2, 3, 64, 32)
    assert pattern_loss(sr, hr).sqrt().item() * 255 == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("name", IMAGE_LOSSES)
def test_a_loss_of_sr_in_bf16_is_computed_in_fp32(name: str) -> None:
    torch.manual_seed(0)
    hr = torch.rand(2, 3, 48, 48)
    sr = (hr + 0.002 + 0.02 * torch.randn_like(hr)).bfloat16()
    expected = IMAGE_LOSSES[name](sr.float(), hr).item()
    assert IMAGE_LOSSES[name](sr, hr).item() == pytest.approx(expected, rel=1e-4)


def test_the_pull_of_a_term_is_the_norm_of_its_gradient() -> None:
    hr = torch.zeros(1, 3, 2, 2)
    sr = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    assert gradient_norm(lambda sr: pixel_loss(sr, hr), sr) == pytest.approx((12 * (2 * 0.5 / 12) ** 2) ** 0.5)
    assert gradient_norm(lambda sr: pixel_loss(sr.detach(), hr), sr) == 0, "a detached loss pulls at nothing"
    assert sr.grad is None


def test_the_discriminator_learns_to_tell(batch: Batch, vgg: nn.Module) -> None:
    gan = Gan(vgg)
    terms = [gan.step(batch) for _ in range(12)]
    assert terms[-1]["loss_discriminator"] < terms[0]["loss_discriminator"]
    assert terms[-1]["d_hr"] > terms[-1]["d_sr"]


def test_steps_in_bf16_follow_those_in_fp32(batch: Batch, vgg: nn.Module) -> None:
    bf16 = autocast("bf16", torch.device("cpu"))
    full, half = Gan(vgg).step(batch), Gan(vgg).step(batch, cast=bf16)
    for name in full:
        assert half[name].item() == pytest.approx(full[name].item(), rel=0.1, abs=1e-3), name
