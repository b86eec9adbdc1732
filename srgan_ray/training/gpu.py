"""What makes a step quick on a GPU, where most kernels are over before Python has launched the next one."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.overrides import TorchFunctionMode

from srgan_ray.data.feed import Batch
from srgan_ray.models.layers import PReLU

convolution_backward = torch.ops.aten.convolution_backward

WARM_UP = 3  # steps taken kernel by kernel, in which cuDNN chooses its algorithms and Adam makes its moments

TakeStep = Callable[[Batch], dict[str, Tensor]]


class GraphedStep:
    """A step on batches of one shape as a CUDA graph: recorded after WARM_UP steps, and replayed from then on.

    Whatever the step reads that changes between steps must lie on the GPU and stay in its place, as Adam's learning
    rate does. The loss terms that it returns are overwritten by the next step.
    """

    def __init__(self, take_step: TakeStep) -> None:
        self._take_step = take_step
        self._num_taken = 0
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream()

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        self._num_taken += 1
        if self._num_taken <= WARM_UP:
            return self._warm_up(batch)
        if self._num_taken == WARM_UP + 1:
            self._record(batch)
        for place, images in zip(self._batch, batch):
            place.copy_(images)
        self._graph.replay()
        return self._terms

    def _warm_up(self, batch: Batch) -> dict[str, Tensor]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream), _choosing_algorithms():
            terms = self._take_step(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return terms

    def _record(self, batch: Batch) -> None:
        """Note the step's kernels without running any."""
        self._batch = Batch(*(images.clone() for images in batch))
        recording = torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local")
        with recording, _choosing_algorithms():
            self._terms = self._take_step(self._batch)


class Bf16Network(nn.Module):
    """A network for autocast to bf16 on a lone GPU, each of whose layers is used once in a pass. The results are the
    same, bit for bit, as without this wrapper.

    The weights of its plain layers, which autocast would cast one by one, are cast at once, and so are their gradients.
    The gradients of the convolutions' weights, for which no other layer waits, are computed on a stream of their own: a
    convolution of 64 channels leaves most of an H200 idle, and a pretraining step took 2.3 ms so in place of 2.8.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._beside = _Beside()
        self._names = [
            f"{prefix}.{name}"
            for prefix, module in network.named_modules()
            if type(module) in (nn.Conv2d, PReLU)
            for name, _ in module.named_parameters(recurse=False)
        ]

    def forward(self, *inputs: Tensor) -> Any:
        weights = _CastTogether.apply(self._beside, *(self.network.get_parameter(name) for name in self._names))
        with _ConvolutionsBeside(self._beside, weights):
            return torch.func.functional_call(self.network, dict(zip(self._names, weights)), inputs)


class _Beside:
    """What a pass backward computes on a stream of its own, and holds until it is waited for."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._held: list[Any] = []  # memory that is given back is free to whom it was taken from, and not to both

    @contextlib.contextmanager
    def computing(self, *operands: Tensor) -> Iterator[None]:
        self._stream.wait_stream(torch.cuda.current_stream())
        self._held += operands
        with torch.cuda.stream(self._stream):
            yield

    def wait(self) -> None:
        torch.cuda.current_stream().wait_stream(self._stream)
        self._held.clear()


class _ConvolutionsBeside(TorchFunctionMode):
    """Convolutions with these weights compute their gradients beside those of the features."""

    def __init__(self, beside: _Beside, weights: tuple[Tensor, ...]) -> None:
        super().__init__()
        self._beside, self._weights = beside, {id(weight) for weight in weights}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is conv2d and id(args[1]) in self._weights:
            return _Convolution.apply(self._beside, *args)
        return function(*args, **(kwargs or {}))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, beside: _Beside, features: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any
    ) -> Tensor:
        features = features.to(weight.dtype)  # as autocast does, outside of whose sight the backward pass is
        ctx.save_for_backward(features, weight)
        ctx.beside, ctx.geometry = beside, geometry
        return conv2d(features, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        _, for_features, for_weight, for_bias = ctx.needs_input_grad[:4]

        operands = (gradient, features, weight, weight.shape[:1])  # the last one is the bias's
        setting = (stride, padding, dilation, False, [0, 0], groups)
        with ctx.beside.computing(gradient, features):
            _, of_weight, of_bias = convolution_backward(*operands, *setting, (False, for_weight, for_bias))
        of_features, _, _ = convolution_backward(*operands, *setting, (for_features, False, False))
        return None, of_features, of_weight, of_bias, *(None for _ in ctx.geometry)


class _CastTogether(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, beside: _Beside, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.beside = beside
        return _cast(weights, torch.bfloat16)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.beside.wait()
        return None, *_cast(gradients, torch.float32)


def _cast(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = tuple(torch.empty_like(tensor, dtype=dtype) for tensor in tensors)
    torch._foreach_copy_(copies, tensors)
    return copies


def _choosing_algorithms() -> contextlib.AbstractContextManager[None]:
    """cuDNN tries what it has for each convolution, once for each shape, and takes the fastest. Whether TF32 is among
    it stays as it is."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32)
