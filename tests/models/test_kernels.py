"""The kernels for a GPU beside PyTorch's layers; on a machine without one Triton interprets them (`conftest`)."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, prelu

pytest.importorskip("triton", reason="Triton comes with PyTorch for GPUs")
from srgan_ray.models import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 64, 5, 7), (3, 128, 12, 12), (1, 8, 20, 21), (1, 2, 1, 2)])
@pytest.mark.parametrize("slope", [None, 0.2, "learned"])
@pytest.mark.parametrize("is_added", [False, True])
def test_batchnorm_with_what_follows_is_the_layers_one_after_the_other(
    dtype: torch.dtype, shape: tuple[int, ...], slope: str | float | None, is_added: bool
) -> None:
    compare(dtype, shape, slope, is_added)


def test_more_parts_than_are_combined_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "CHUNK", 8)
    compare(torch.float32, (2, 2, 18, 20), "learned", True)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    norm = nn.BatchNorm2d(8).to(DEVICE)
    features = to_device(torch.randn(4, 8, 16, 16) + 1000)
    torch.testing.assert_close(kernels.batch_norm(features, norm), copy.deepcopy(norm)(features), rtol=0, atol=1e-3)


def compare(dtype: torch.dtype, shape: tuple[int, ...], slope: str | float | None, is_added: bool) -> None:
    """Results, gradients and statistics of two steps, those of PyTorch in fp32."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(shape[1]).to(DEVICE)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    layer = copy.deepcopy(norm)
    learned = torch.tensor([0.3], device=DEVICE) if slope == "learned" else None
    for _ in range(2):
        given = [torch.randn(shape) * 2 + 3] + [torch.randn(shape)] * is_added
        ours, theirs = ([to_device(tensor, dtype).requires_grad_() for tensor in given] for _ in range(2))
        slopes = [learned.clone().requires_grad_() if learned is not None else slope for _ in range(2)]
        result = kernels.batch_norm(ours[0], norm, slopes[0], *ours[1:])
        expected = follow(layer(theirs[0].float()), slopes[1], *theirs[1:])
        gradient = to_device(torch.randn(shape), dtype)
        result.backward(gradient)
        expected.backward(gradient.float())
        assert result.dtype == dtype
        assert_close(result, expected, dtype)
        for one, other in zip([*ours, norm.weight, norm.bias], [*theirs, layer.weight, layer.bias]):
            assert_close(one.grad, other.grad, dtype)
        if isinstance(slopes[0], Tensor):
            assert_close(slopes[0].grad, slopes[1].grad, dtype)
    for one, other in zip(norm.buffers(), layer.buffers()):
        assert_close(one, other, dtype)
    assert norm.num_batches_tracked == 2


def follow(features: Tensor, slope: Tensor | float | None, added: Tensor | None = None) -> Tensor:
    if slope is not None:
        features = prelu(features, slope) if isinstance(slope, Tensor) else leaky_relu(features, slope)
    return features if added is None else features + added.float()


def to_device(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return tensor.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


def assert_close(one: Tensor, other: Tensor, dtype: torch.dtype) -> None:
    """Within the rounding of `dtype` of the largest number; but for the few features that it puts on the other side of
    the activation's bend."""
    apart = (one.float() - other.float()).abs()
    assert (apart > TOLERANCE[dtype] * other.abs().max().clamp(min=1)).float().mean() <= 1e-3
