import copy

import pytest
import torch
from torch import nn

from srgan_ray.models import layers
from srgan_ray.models.layers import ConvLeakyReLU, Layers, PReLU, ShuffledConv2d

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")


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


@pytest.mark.parametrize("num_left_out", [0, 1, 2, 3])
def test_layers_with_kernels_are_the_layers_one_after_the_other(
    num_left_out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BatchNorm with what follows it, whatever that is, and the sum at the very end."""
    pytest.importorskip("triton", reason="Triton comes with PyTorch for GPUs")
    made = [nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.BatchNorm2d(8), PReLU(), nn.BatchNorm2d(8)]
    ours = Layers(*made[: len(made) - num_left_out]).to(DEVICE)
    for norm in ours[1::2]:
        nn.init.normal_(norm.bias)
    reference = copy.deepcopy(ours)
    features, added = torch.randn(2, 2, 8, 5, 6, device=DEVICE)
    expected = nn.Sequential.forward(reference, features) + added  # not in channels_last, so without the kernels
    taken = []
    monkeypatch.setattr(layers, "_has_kernels", lambda norm, _: not taken.append(norm))
    result = ours(features.contiguous(memory_format=torch.channels_last), added.to(memory_format=torch.channels_last))
    assert taken == [layer for layer in ours if isinstance(layer, nn.BatchNorm2d)]
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    for output in (result, expected):
        (output * features).sum().backward()
    for one, other in zip(ours.parameters(), reference.parameters()):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3)
    for one, other in zip(ours.buffers(), reference.buffers()):
        torch.testing.assert_close(one, other)


@on_gpu
@pytest.mark.parametrize("channels", [6, 8])
def test_layers_on_a_gpu_are_those_of_the_cpu(channels: int) -> None:
    """Also with a number of channels that the kernels do not take."""
    ours = Layers(nn.BatchNorm2d(channels), PReLU(), nn.BatchNorm2d(channels))
    features = torch.randn(2, channels, 5, 6).to(memory_format=torch.channels_last)
    expected, result = ours(features, features), copy.deepcopy(ours).to("cuda")(features.cuda(), features.cuda())
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-4, atol=1e-4)


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_convolution_and_its_relu_on_a_gpu_are_pytorchs(dtype: torch.dtype) -> None:
    ours = ConvLeakyReLU(nn.Conv2d(16, 8, 3, padding=1), 0.0).requires_grad_(False).to("cuda", dtype)
    ours = ours.to(memory_format=torch.channels_last)
    features = torch.randn(2, 16, 11, 14, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
    results = []
    for module in (ours, ConvThenLeakyReLU(ours)):
        given = features.clone().requires_grad_()
        output = module(given)
        results.append((output, *torch.autograd.grad(output.float().square().sum(), given)))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


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
