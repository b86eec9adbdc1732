"""BatchNorm of a training step on a GPU, with the activation or the sum after it: two kernels forward, two backward.

PyTorch's own take four and five, of which those that sum up wait for their last program. Here each program sums up a
part of the rows, and the next kernel's programs combine the parts, each for itself: nothing waits, and the order of the
sums is always the same. On an H200, for 16 images of 24 pixels with 64 channels in bf16, forward took 7.2 us with the
activation or the sum, and 12.1 us of PyTorch's kernels without them; backward 9.7 and 10.4 us.

Features are in channels_last: M rows of C channels, C a power of 2. Sums are in fp32.
"""
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

NONE, LEARNED, FIXED = range(3)  # slope of the activation
# Few sizes, since each is compiled: 27 kernels for the discriminator's layers took 6 s on an H200's machine, and with
# these there are 10; those 27 were the ones whose speed was measured.
MAX_CHANNELS = 64  # of one program
PART_ROWS = (32, 128, 512)  # of a program where rows are summed up
MAX_PARTS = 96  # but for what 512 rows make more
BLOCK_ROWS = (64, 256)  # of a program elsewhere
MAX_PROGRAMS = 400  # three for each multiprocessor of an H200, but for what 256 rows make more
CHUNK = 128  # parts that are combined at once


def batch_norm(
    features: Tensor, norm: nn.BatchNorm2d, slope: Tensor | float | None = None, added: Tensor | None = None
) -> Tensor:
    """What `norm` makes of features (N, C, H, W) in training mode, its running statistics brought up to date; then
    LeakyReLU with `slope`, a number or a learned one of one element; then the sum with `added`."""
    learned, fixed = (slope, 0.0) if isinstance(slope, Tensor) else (None, slope)
    result: Tensor = _BatchNorm.apply(features, norm.weight, norm.bias, learned, added, fixed, norm)
    return result


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        learned: Tensor | None,
        added: Tensor | None,
        fixed: float | None,
        norm: nn.BatchNorm2d,
    ) -> Tensor:
        ctx.activation = LEARNED if learned is not None else NONE if fixed is None else FIXED
        ctx.fixed, ctx.shape = fixed or 0.0, _Shape(features)
        shape, result = ctx.shape, torch.empty_like(features)
        means, squares = torch.empty(2, shape.num_parts, shape.C, device=features.device)
        mean, inverse_std = torch.empty(2, shape.C, device=features.device)
        _moments[shape.parts_grid](
            *(features, means, squares, shape.M, shape.C, shape.part, shape.channels),
            num_warps=shape.num_warps(shape.part),
        )
        _normalise[shape.grid](
            *(features, features if added is None else added, result, means, squares, mean, inverse_std),
            *(norm.running_mean, norm.running_var, norm.num_batches_tracked, norm.eps, norm.momentum),
            *(weight, bias, weight if learned is None else learned, ctx.fixed),
            *(shape.M, shape.num_parts, shape.part, shape.C, shape.block, shape.channels, CHUNK),
            *(ctx.activation, added is not None),
            num_warps=shape.num_warps(shape.block),
        )
        ctx.save_for_backward(features, weight, bias, learned, mean, inverse_std)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, learned, mean, inverse_std = ctx.saved_tensors
        shape, result = ctx.shape, torch.empty_like(features)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        parts = torch.empty(3, shape.num_parts, shape.C, device=features.device)
        for_bias, for_weight = torch.empty(2, shape.C, device=features.device)
        for_slope = torch.empty(shape.grid[1], device=features.device)
        known = (mean, inverse_std, weight, bias, weight if learned is None else learned, ctx.fixed, *parts)
        _sums[shape.parts_grid](
            *(features, gradient, *known, shape.M, shape.C, shape.part, shape.channels, ctx.activation),
            num_warps=shape.num_warps(shape.part),
        )
        _gradient[shape.grid](
            *(features, gradient, result, *known, for_bias, for_weight, for_slope),
            *(shape.M, shape.num_parts, shape.C, shape.block, shape.channels, CHUNK, ctx.activation),
            num_warps=shape.num_warps(shape.block),
        )
        for_learned = None if learned is None else for_slope.sum_to_size(learned.shape).to(learned.dtype)
        return result, for_weight, for_bias, for_learned, gradient if ctx.needs_input_grad[4] else None, None, None


class _Shape:
    """How M rows of C channels are shared out: `channels` to a program, and `part` rows of them where they are summed
    up, `block` rows elsewhere."""

    def __init__(self, features: Tensor) -> None:
        self.C = features.shape[1]
        self.M = features.numel() // self.C
        self.channels = min(self.C, MAX_CHANNELS)
        across = self.C // self.channels
        self.part = _smallest(PART_ROWS, self.M / MAX_PARTS)
        self.block = _smallest(BLOCK_ROWS, self.M * across / MAX_PROGRAMS)
        self.num_parts = triton.cdiv(self.M, self.part)
        self.parts_grid, self.grid = (self.num_parts, across), (triton.cdiv(self.M, self.block), across)

    def num_warps(self, rows: int) -> int:
        """For so many rows a program: 64 numbers a thread, within limits."""
        return min(16, max(4, rows * self.channels // 2048))


def _smallest(sizes: tuple[int, ...], least: float) -> int:
    """The smallest size that is enough, or the largest."""
    return next((size for size in sizes if size >= least), sizes[-1])


@triton.jit
def _moments(x, means, squares, M, C, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Of each part of the rows: its mean, and the sum of the squared distances from it."""
    part = tl.program_id(0)
    rows, channels = part * ROWS + tl.arange(0, ROWS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = rows[:, None] < M
    tile = tl.load(x + rows[:, None] * C + channels[None, :], mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(tile, 0) / tl.minimum(ROWS, M - part * ROWS)
    apart = tl.where(inside, tile - mean[None, :], 0.0)
    tl.store(means + part * C + channels, mean)
    tl.store(squares + part * C + channels, tl.sum(apart * apart, 0))


@triton.jit
def _normalise(
    x, added, y, means, squares, mean, inverse_std, running_mean, running_var, num_tracked, eps, momentum,
    weight, bias, learned, fixed, M, NUM_PARTS, PART, C, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    CHUNK: tl.constexpr, ACTIVATION: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """y of x; the programs of the first rows write down the statistics as well."""
    rows, channels = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside, places = rows[:, None] < M, rows[:, None] * C + channels[None, :]
    tile = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)

    # Chan et al. 1979, "Updating formulae and a pairwise algorithm for computing sample variances", equation 2.1.
    num, mu, m2 = 0.0, tl.zeros((CHANNELS,), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    for start in range(0, NUM_PARTS, CHUNK):
        parts = start + tl.arange(0, CHUNK)
        at, there = parts[:, None] * C + channels[None, :], parts[:, None] < NUM_PARTS
        counts = tl.where(parts < NUM_PARTS, tl.minimum(PART, M - parts * PART), 0).to(tl.float32)
        part_means = tl.load(means + at, mask=there, other=0.0)
        chunk_num = tl.sum(counts, 0)
        chunk_mu = tl.sum(part_means * counts[:, None], 0) / chunk_num
        apart = part_means - chunk_mu[None, :]
        chunk_m2 = tl.sum(tl.load(squares + at, mask=there, other=0.0) + apart * apart * counts[:, None], 0)
        further, total = chunk_mu - mu, num + chunk_num
        m2 += chunk_m2 + further * further * (num * chunk_num / total)
        mu += further * (chunk_num / total)
        num = total
    inverse = tl.rsqrt(m2 / M + eps)

    if tl.program_id(0) == 0:
        tl.store(mean + channels, mu)
        tl.store(inverse_std + channels, inverse)
        tl.store(running_mean + channels, (1 - momentum) * tl.load(running_mean + channels) + momentum * mu)
        unbiased = m2 / (M - 1)
        tl.store(running_var + channels, (1 - momentum) * tl.load(running_var + channels) + momentum * unbiased)
        if tl.program_id(1) == 0:
            tl.store(num_tracked, tl.load(num_tracked) + 1)

    z = (tile - mu[None, :]) * (tl.load(weight + channels) * inverse)[None, :] + tl.load(bias + channels)[None, :]
    if ACTIVATION:
        z = tl.where(z > 0, z, z * (tl.load(learned).to(tl.float32) if ACTIVATION == 1 else fixed))
    if ADD:
        z += tl.load(added + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + places, z, mask=inside)


@triton.jit
def _before_activation(
    x, dy, places, inside, channels, mean, inverse_std, weight, bias, learned, fixed, ACTIVATION: tl.constexpr
):  # fmt: skip
    """Of a tile of rows: the normal features, BatchNorm's result, and the gradients after and before the activation."""
    after = tl.load(dy + places, mask=inside, other=0.0).to(tl.float32)
    tile = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    normal = (tile - tl.load(mean + channels)[None, :]) * tl.load(inverse_std + channels)[None, :]
    z = normal * tl.load(weight + channels)[None, :] + tl.load(bias + channels)[None, :]
    before = after
    if ACTIVATION:
        before = tl.where(z > 0, after, after * (tl.load(learned).to(tl.float32) if ACTIVATION == 1 else fixed))
    return normal, z, after, before


@triton.jit
def _sums(
    x, dy, mean, inverse_std, weight, bias, learned, fixed, for_bias, for_weight, for_slope, M,
    C, ROWS: tl.constexpr, CHANNELS: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Of each part of the rows: what it has of the gradients for bias, weight and learned slope."""
    part = tl.program_id(0)
    rows, channels = part * ROWS + tl.arange(0, ROWS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside, places = rows[:, None] < M, rows[:, None] * C + channels[None, :]
    normal, z, after, before = _before_activation(
        x, dy, places, inside, channels, mean, inverse_std, weight, bias, learned, fixed, ACTIVATION
    )
    tl.store(for_bias + part * C + channels, tl.sum(before, 0))
    tl.store(for_weight + part * C + channels, tl.sum(before * normal, 0))
    if ACTIVATION == 1:
        tl.store(for_slope + part * C + channels, tl.sum(tl.where(z > 0, 0.0, after * z), 0))


@triton.jit
def _sum_parts(of, channels, NUM_PARTS, C, CHANNELS: tl.constexpr, CHUNK: tl.constexpr):
    total = tl.zeros((CHANNELS,), tl.float32)
    for start in range(0, NUM_PARTS, CHUNK):
        parts = start + tl.arange(0, CHUNK)
        places = parts[:, None] * C + channels[None, :]
        total += tl.sum(tl.load(of + places, mask=parts[:, None] < NUM_PARTS, other=0.0), 0)
    return total


@triton.jit
def _gradient(
    x, dy, dx, mean, inverse_std, weight, bias, learned, fixed, for_bias, for_weight, for_slope, db, dw, ds,
    M, NUM_PARTS, C, ROWS: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    """dx of dy; the programs of the first rows write down the other gradients as well."""
    rows, channels = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside, places = rows[:, None] < M, rows[:, None] * C + channels[None, :]
    normal, _, _, before = _before_activation(
        x, dy, places, inside, channels, mean, inverse_std, weight, bias, learned, fixed, ACTIVATION
    )
    bias_gradient = _sum_parts(for_bias, channels, NUM_PARTS, C, CHANNELS, CHUNK)
    weight_gradient = _sum_parts(for_weight, channels, NUM_PARTS, C, CHANNELS, CHUNK)
    if tl.program_id(0) == 0:
        tl.store(db + channels, bias_gradient)
        tl.store(dw + channels, weight_gradient)
        if ACTIVATION == 1:
            tl.store(ds + tl.program_id(1), tl.sum(_sum_parts(for_slope, channels, NUM_PARTS, C, CHANNELS, CHUNK), 0))
    scale = (tl.load(weight + channels) * tl.load(inverse_std + channels))[None, :]
    common = bias_gradient[None, :] / M + normal * (weight_gradient / M)[None, :]
    tl.store(dx + places, scale * (before - common), mask=inside)
