import pytest
import torch
from torch import nn

from srgan_ray.models.layers import ConvLeakyReLU, PReLU, ShuffledConv2d


def compare_gradients(ours: nn.Module, reference: nn.Module, features: torch.Tensor, weight: torch.Tensor) -> None:
    """Outputs are equal, and gradients by the input and by the parameters, which both modules share."""
    outputs, gradients = [], []
    for module in (ours, reference):
        given = features.clone().requires_grad_()
        outputs.append(module(given))
        gradients.append(torch.autograd.grad((outputs[-1] * weight).sum(), [given, *ours.parameters()]))
    torch.testing.assert_close(outputs[0], outputs[1])
    for first, second in zip(*gradients):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("slope", [0.25, -0.5, 1.5])
def test_prelu_is_pytorchs(slope: float) -> None:
    ours, features = PReLU().double(), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    nn.init.constant_(ours.weight, slope)

    class Reference(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return nn.functional.prelu(features, ours.weight)

    compare_gradients(ours, Reference(), features, torch.randn_like(features))


@pytest.mark.parametrize("side", [1, 5, 9])
def test_the_last_convolution_is_the_one_after_the_shuffle(side: int) -> None:
    ours = ShuffledConv2d(4, 3, side, padding=side // 2).double()

    class Reference(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            shuffled = nn.functional.pixel_shuffle(features, 2)
            return nn.functional.conv2d(shuffled, ours.weight, ours.bias, padding=side // 2)

    features = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    compare_gradients(ours, Reference(), features, torch.randn(2, 3, 10, 14, dtype=torch.float64))


class ConvThenLeakyReLU(nn.Module):
    """PyTorch's own layers with the weights of `ours`."""

    def __init__(self, ours: ConvLeakyReLU) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(self.ours.convolution(features), self.ours.slope)


@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize(("side", "stride", "has_bias"), [(3, 1, True), (3, 2, False), (9, 1, True)])
def test_a_convolution_and_its_activation_are_pytorchs(slope: float, side: int, stride: int, has_bias: bool) -> None:
    torch.manual_seed(0)
    ours = ConvLeakyReLU(nn.Conv2d(4, 8, side, stride, padding=side // 2, bias=has_bias), slope)
    features = torch.randn(2, 4, 11, 14).to(memory_format=torch.channels_last)
    compare_gradients(ours, ConvThenLeakyReLU(ours), features, torch.randn_like(ours(features)))


def test_a_convolution_and_its_activation_follow_autocast() -> None:
    """bf16 inside, fp32 gradients, and only as much off as rounding twice."""
    ours = ConvLeakyReLU(nn.Conv2d(4, 8, 3, padding=1), 0.2)
    features = torch.randn(2, 4, 11, 14)
    with torch.autocast("cpu", torch.bfloat16):
        output, reference = ours(features), ConvThenLeakyReLU(ours)(features)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, reference, rtol=2**-7, atol=1e-3)
    output.float().sum().backward()
    assert ours.convolution.weight.grad is not None
    assert ours.convolution.weight.grad.dtype == torch.float32


def test_a_frozen_convolution_gets_no_gradient() -> None:
    ours = ConvLeakyReLU(nn.Conv2d(4, 8, 3, padding=1), 0.0).requires_grad_(False)
    features = torch.randn(1, 4, 6, 6, requires_grad=True)
    ours(features).sum().backward()
    assert features.grad is not None
    assert ours.convolution.weight.grad is None
