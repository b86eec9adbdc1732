"""Layers that do what PyTorch's own do, in fewer passes over memory: that is what most layers wait for."""

import importlib.util
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu, pad, pixel_shuffle, pixel_unshuffle
from torch.nn.utils.fusion import fuse_conv_bn_eval

ONE_PASS = torch.backends.mkldnn.is_available()  # oneDNN's convolutions, which can end in an activation
HAS_CUDNN = torch.version.cuda is not None  # and not AMD's MIOpen
HAS_TRITON = importlib.util.find_spec("triton") is not None  # it comes with PyTorch for GPUs on Linux


class Layers(nn.Sequential):
    """Layers one after the other; to what comes out, `added` is added.

    While training on a GPU, BatchNorm is one with the activation or the sum after it (`kernels.batch_norm`): a
    pretraining step of the paper's network took 3.4 ms on an H200 with PyTorch's layers, 2.8 ms so.
    """

    def forward(self, features: Tensor, added: Tensor | None = None) -> Tensor:
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            if isinstance(layer, nn.BatchNorm2d) and _has_kernels(layer, features):
                slope = _slope(layers.pop(0)) if layers and isinstance(layers[0], nn.PReLU | nn.LeakyReLU) else None
                added_here, added = (added, None) if not layers else (None, added)
                features = _batch_norm(features, layer, slope, added_here)
            else:
                features = layer(features)
        return features if added is None else features + added


def _has_kernels(norm: nn.BatchNorm2d, features: Tensor) -> bool:
    num, channels, height, width = features.shape
    return (
        HAS_TRITON
        and features.device.type == "cuda"
        and norm.training
        and channels.bit_count() == 1
        and 1 < num * height * width < 2**31 // channels  # of one row PyTorch's own says that it is not enough
        and features.is_contiguous(memory_format=torch.channels_last)
    )


def _batch_norm(features: Tensor, norm: nn.BatchNorm2d, slope: Tensor | float | None, added: Tensor | None) -> Tensor:
    from srgan_ray.models import kernels  # needs Triton

    return kernels.batch_norm(features, norm, slope, added)


def _slope(activation: nn.Module) -> Tensor | float:
    return activation.weight if isinstance(activation, nn.PReLU) else activation.negative_slope  # type: ignore[return-value]


class PReLU(nn.PReLU):
    """PReLU with one learned slope.

    On the CPU not by PyTorch's own kernels, whose backward pass is not vectorised: 31 ms on (16, 256, 48, 48) in bf16,
    this one 3 ms.
    """

    def forward(self, features: Tensor) -> Tensor:
        return _CpuPReLU.apply(features, self.weight) if features.device.type == "cpu" else super().forward(features)


class _CpuPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(features, slope)
        return leaky_relu(features, slope.item())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        features, slope = ctx.saved_tensors
        for_slope = (gradient * features.clamp(max=0)).sum().to(slope.dtype).reshape(slope.shape)
        return torch.ops.aten.leaky_relu_backward(gradient, features, slope.item(), False), for_slope


class ConvLeakyReLU(nn.Module):
    """A convolution and LeakyReLU of a fixed slope after it; with slope 0, ReLU.

    On the CPU both are one call of oneDNN's, as torch.compile would make it: of 64 channels to 64 on 16 images of 96
    pixels in bf16, 14 ms of a core; a convolution and a ReLU in place, 23 ms. The result is the same, bit for bit,
    where the slope is 0; else it is rounded once, not twice.

    On a GPU a frozen one with slope 0, as VGG's are, is one call of cuDNN's, which rounds once where PyTorch would
    round three times: that took 0.36 ms of the 7.96 ms of an SRGAN step on an H200.
    """

    def __init__(self, convolution: nn.Conv2d, slope: float) -> None:
        super().__init__()
        self.convolution, self.slope = convolution, slope

    def forward(self, features: Tensor) -> Tensor:
        if self._is_one_call(features):
            return _ConvLeakyReLU.apply(*self._operands(features), self.convolution, self.slope)
        return leaky_relu(self.convolution(features), self.slope)

    def _is_one_call(self, features: Tensor) -> bool:
        if features.device.type == "cuda":
            return HAS_CUDNN and self.slope == 0 and not self.convolution.weight.requires_grad
        return features.device.type == "cpu" and ONE_PASS

    def _operands(self, features: Tensor) -> list[Tensor | None]:
        """Features, weight and bias in autocast's type, which knows PyTorch's own layers alone."""
        operands, device = [features, self.convolution.weight, self.convolution.bias], features.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.convolution.weight.dtype
        return [operand if operand is None else operand.to(dtype) for operand in operands]


class _ConvLeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, convolution: nn.Conv2d, slope: float
    ) -> Tensor:
        padding, stride, dilation = _geometry(convolution)
        if features.device.type == "cuda":
            result = torch.cudnn_convolution_relu(features, weight, bias, stride, padding, dilation, convolution.groups)
        else:
            activation = ("leaky_relu", [slope], "") if slope else ("relu", [], "")
            result = torch.ops.mkldnn._convolution_pointwise(
                features, weight, bias, padding, stride, dilation, convolution.groups, *activation
            )
        ctx.save_for_backward(features, weight, result)
        ctx.convolution, ctx.slope = convolution, slope
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, result = ctx.saved_tensors
        padding, stride, dilation = _geometry(ctx.convolution)
        before = torch.ops.aten.leaky_relu_backward(gradient, result, ctx.slope, True)  # of the result's sign
        bias_sizes = [weight.shape[0]] if ctx.needs_input_grad[2] else None
        gradients = torch.ops.aten.convolution_backward(
            before,
            features,
            weight,
            bias_sizes,
            stride,
            padding,
            dilation,
            False,
            [0, 0],
            ctx.convolution.groups,
            ctx.needs_input_grad[:3],
        )
        return *gradients, None, None


def join(layers: Iterable[nn.Module]) -> Layers:
    """The same layers, frozen in eval mode, BatchNorm, PReLU and ReLU joined with the convolutions before them."""
    joined: list[Any] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            joined[-1] = fuse_conv_bn_eval(joined[-1], layer)
        elif isinstance(layer, PReLU | nn.ReLU):
            joined[-1] = ConvLeakyReLU(joined[-1], layer.weight.item() if isinstance(layer, PReLU) else 0.0)
        else:
            joined.append(layer)
    return Layers(*joined).eval().requires_grad_(False)


def _geometry(convolution: nn.Conv2d) -> tuple[tuple[int, ...], ...]:
    assert not isinstance(convolution.padding, str)
    return convolution.padding, convolution.stride, convolution.dilation


class ShuffledConv2d(nn.Conv2d):
    """A pixel shuffle by 2 and then a convolution of side 1, 5, 9, … with zeros around the image ("same" padding).

    The kernel is spread out so that it works before the shuffle: (N, 4 C, h, w) to (N, 4 K, h, w), which is shuffled
    to (N, K, 2h, 2w). That is a quarter more to multiply than after it, but oneDNN and cuDNN are slow at few output
    channels on large planes: of 64 channels to 3 with a kernel of 9, on 16 images of 96 pixels in bf16 on 2 CPU cores,
    66 ms forward and backward after the shuffle, 24 ms before it; and the shuffle has 3 channels to move, not 64.
    """

    def forward(self, features: Tensor) -> Tensor:
        # The kernel, one pixel larger, stands at each of the four places that an output pixel can have in a pixel of
        # the unshuffled image.
        placed = [pad(self.weight, (x, 1 - x, y, 1 - y)) for y in (0, 1) for x in (0, 1)]
        weight = torch.stack([pixel_unshuffle(kernel, 2) for kernel in placed], dim=1).flatten(0, 1)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        return pixel_shuffle(conv2d(features, weight, bias, padding=self.kernel_size[0] // 4), 2)
