import pytest
import torch
from torch import nn

from srgan_ray.errors import InputError
from srgan_ray.models.discriminator import DiscriminatorConfig, build_discriminator
from srgan_ray.models.generator import GeneratorConfig, build_generator


def test_the_papers_generator() -> None:
    """1,549,462 parameters are usual for 16 blocks of 64; ours leaves out the 33 biases that BatchNorm cancels."""
    generator = build_generator(GeneratorConfig(), 0)
    assert sum(parameter.numel() for parameter in generator.parameters()) == 1_549_462 - 33 * 64
    assert generator.receptive_radius_px == 40


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (24, 24)])
def test_any_size_becomes_four_times_as_large(size: tuple[int, int]) -> None:
    generator = build_generator(GeneratorConfig(1, 8), 0).eval()
    assert generator(torch.rand(2, 3, *size)).shape == (2, 3, 4 * size[0], 4 * size[1])


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_receptive_radius_is_what_gradients_say(num_blocks: int) -> None:
    """No input further away than the radius changes an output; one a pixel nearer does."""
    generator = build_generator(GeneratorConfig(num_blocks, 8), 0).eval().double()
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    radius = generator.receptive_radius_px
    side = 2 * radius + 9
    lr = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    centre = side // 2
    generator(lr)[0, :, 4 * centre : 4 * centre + 4, 4 * centre : 4 * centre + 4].sum().backward()
    assert lr.grad is not None
    reached = lr.grad.abs().amax((0, 1))
    assert reached[: centre - radius].max() == 0
    assert reached[centre + radius + 1 :].max() == 0
    assert reached[centre - radius + 1 : centre + radius].amax(1).min() > 0


def test_alone_and_in_a_batch_the_output_is_the_same() -> None:
    """In eval mode BatchNorm uses its statistics, not the batch."""
    generator = build_generator(GeneratorConfig(2, 8), 0).eval()
    lr = torch.rand(4, 3, 12, 12)
    torch.testing.assert_close(generator(lr)[:1], generator(lr[:1]), rtol=1e-5, atol=1e-6)


def test_seed_decides_the_weights_and_leaves_the_global_rng_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (build_generator(GeneratorConfig(1, 8), seed).tail.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("crop_px", [96, 48, 52])
def test_the_papers_discriminator(crop_px: int) -> None:
    discriminator = build_discriminator(DiscriminatorConfig(8, 16), crop_px, 0)
    (logits,) = discriminator(torch.rand(2, 3, crop_px, crop_px))
    assert logits.shape == (2, 1)


def test_new_residual_branches_are_nothing_so_that_features_go_past_them() -> None:
    generator, lr = build_generator(GeneratorConfig(2, 8), 0), torch.rand(1, 3, 6, 7)
    shallow = generator.head(lr)
    torch.testing.assert_close(generator.trunk[0](shallow), shallow)
    torch.testing.assert_close(generator.extract(lr), shallow)


def test_the_tails_zero_is_the_middle_of_the_range() -> None:
    """It works from -1 to 1, SR is from 0 to 1."""
    generator = build_generator(GeneratorConfig(1, 8), 0)
    for value, expected in ((-1.0, 0.0), (0.0, 0.5), (1.0, 1.0)):
        nn.init.zeros_(generator.tail.weight)
        nn.init.constant_(generator.tail.bias, value)
        torch.testing.assert_close(generator(torch.rand(1, 3, 4, 4)), torch.full((1, 3, 16, 16), expected))


def test_discriminator_layers_are_those_of_figure_4() -> None:
    discriminator = build_discriminator(DiscriminatorConfig(), 96, 0)
    convolutions = [layer for layer in discriminator.features.modules() if isinstance(layer, nn.Conv2d)]
    assert [(c.out_channels, c.stride[0]) for c in convolutions] == [
        (64, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2),
    ]  # fmt: skip
    dense = [layer for layer in discriminator.verdict if isinstance(layer, nn.Linear)]
    assert [(d.in_features, d.out_features) for d in dense] == [(512 * 6 * 6, 1024), (1024, 1)]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in discriminator.features) == 7
    leaky = [layer for layer in discriminator.modules() if isinstance(layer, nn.LeakyReLU)]
    assert [layer.negative_slope for layer in leaky] == [0.2] * 8
    assert discriminator.features[0].slope == 0.2


def test_the_discriminator_works_in_the_range_of_hr_in_the_paper() -> None:
    """From -1 to 1."""
    discriminator, seen = build_discriminator(DiscriminatorConfig(8, 16), 48, 0), []
    discriminator.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    crops = torch.rand(2, 3, 48, 48)
    discriminator(crops)
    torch.testing.assert_close(seen[0], 2 * crops - 1)


def test_logits_have_no_sigmoid() -> None:
    """Outputs leave (0, 1)."""
    discriminator = build_discriminator(DiscriminatorConfig(8, 16), 48, 0)
    nn.init.constant_(discriminator.verdict[-1].bias, -7.0)
    (logits,) = discriminator(torch.rand(2, 3, 48, 48))
    assert logits.max() < -1


def test_the_discriminator_sees_each_batch_by_itself() -> None:
    """Two batches at once, of unlike statistics, give the logits of one after the other."""
    discriminator = build_discriminator(DiscriminatorConfig(8, 16), 48, 0)
    dark, bright = torch.rand(2, 3, 48, 48) / 4, 0.5 + torch.rand(3, 3, 48, 48) / 2
    together = discriminator(dark, bright)
    apart = *discriminator(dark), *discriminator(bright)
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("config", [(0, 8), (1, 0)])
def test_impossible_sizes_are_refused(config: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="num-blocks"):
        GeneratorConfig(*config)
