"""What makes a step quick on a GPU, where most kernels are over before Python has launched the next one."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from srgan_ray.data.feed import Batch
from srgan_ray.models.layers import PReLU

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


class CastTogether(nn.Module):
    """A network for autocast to bf16: the weights of its plain layers, which that would cast one by one, are cast at
    once, and so are their gradients. The result is the same, bit for bit."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._names = [
            f"{prefix}.{name}"
            for prefix, module in network.named_modules()
            if type(module) in (nn.Conv2d, PReLU)
            for name, _ in module.named_parameters(recurse=False)
        ]

    def forward(self, *inputs: Tensor) -> Any:
        weights = _CastTogether.apply(*(self.network.get_parameter(name) for name in self._names))
        return torch.func.functional_call(self.network, dict(zip(self._names, weights)), inputs)


class _CastTogether(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        return _cast(weights, torch.bfloat16)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return _cast(gradients, torch.float32)


def _cast(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = tuple(torch.empty_like(tensor, dtype=dtype) for tensor in tensors)
    torch._foreach_copy_(copies, tensors)
    return copies


def _choosing_algorithms() -> contextlib.AbstractContextManager[None]:
    """cuDNN tries what it has for each convolution, once for each shape, and takes the fastest. Whether TF32 is among
    it stays as it is."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32)
