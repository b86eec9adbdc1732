"""A generator applied to an image of any size: tile, run, join. What is measured with it is what is served."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from srgan_ray.data import images
from srgan_ray.data.degrade import SCALE
from srgan_ray.models.generator import RENDER_RADIUS_PX, Generator, fold_batchnorm
from srgan_ray.models.precision import autocast, best_device, resolve_precision

# LR pixels that a tile inside an image contributes at most. With the overlap of 32 blocks it reads 400, and an image of
# no more is one tile. One of 375x500 takes 1.84 s on 2 CPU cores so, 2.35 s with 192.
TILE_PX = 256
# LR rows that are rendered at once. In bf16 the largest layer takes 31 MB with 32 rows of 400, and with 400 rows 320
# MB, for which the system clears new pages each time: with 16 blocks a tile of 192 took 187 ms on 2 CPU cores, 159 ms
# in strips.
STRIP_PX = {"cpu": 32, "cuda": 400}


class Span(NamedTuple):
    """Along one axis, in LR pixels: a tile reads `read` and contributes `keep`."""

    read: slice
    keep: slice

    @property
    def inside(self) -> slice:
        """`keep`, counted from where `read` begins."""
        return _shifted(self.keep, -self.read.start)


class Tile(NamedTuple):
    """A part of an image, in LR pixels."""

    rows: Span
    columns: Span

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what it reads."""
        return _length(self.rows.read), _length(self.columns.read)

    def cut(self, lr: np.ndarray) -> np.ndarray:
        """What it reads of the image (h, w, 3)."""
        return lr[self.rows.read, self.columns.read]

    def paste(self, part: np.ndarray, sr: np.ndarray) -> None:
        """Put what it contributes into the whole output."""
        sr[scaled(self.rows.keep), scaled(self.columns.keep)] = part


class Part(NamedTuple):
    """What a tile contributes, RGB (4h, 4w, 3), and whether half precision was not enough for it."""

    sr: np.ndarray
    overflowed: bool


class Upscaler:
    """RGB (h, w, 3), `uint8` or `uint16`, to (4h, 4w, 3) of the same type.

    The tiles' overlap is the generator's receptive radius. Every kept pixel thus sees all the input that it would see
    in the whole image, and the joined tiles equal the output for the whole image.
    """

    def __init__(self, generator: Generator, precision: str = "auto", tile_px: int = TILE_PX) -> None:
        self.device = best_device()
        self.precision = resolve_precision(precision, self.device)
        self._autocast = autocast(self.precision, self.device)
        self._generator = fold_batchnorm(generator).to(self.device).to(memory_format=torch.channels_last)
        self._tile_px = tile_px
        self._overlap_px = generator.receptive_radius_px

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """Upscale an image, tile by tile. Raises FloatingPointError as `run` does."""
        sr = empty_output(lr)
        for tile in self.tiles(*lr.shape[:2]):
            tile.paste(self.run([(lr, tile)])[0].sr, sr)
        return sr

    def tiles(self, height: int, width: int) -> list[Tile]:
        """The tiles of an image of this size, all of one shape."""
        return [
            Tile(rows, columns)
            for rows in spans(height, self._tile_px, self._overlap_px)
            for columns in spans(width, self._tile_px, self._overlap_px)
        ]

    def run(self, batch: Sequence[tuple[np.ndarray, Tile]]) -> list[Part]:
        """The generator on tiles of one shape, each of an image (h, w, 3); the images have one type. A tile whose
        output is not finite in half precision is run again in fp32.

        Raises FloatingPointError where that is not finite either.
        """
        planes = torch.from_numpy(images.to_float(np.stack([tile.cut(lr) for lr, tile in batch])))
        lr = planes.to(self.device, memory_format=torch.channels_last)
        dtype = batch[0][0].dtype
        with torch.inference_mode():
            with self._autocast():
                features = self._generator.extract(lr)
                kept = [self._render(features[i : i + 1], tile, dtype) for i, (_, tile) in enumerate(batch)]
            return [
                Part(self._run_in_fp32(lr[i : i + 1], batch[i][1], dtype), True) if sr is None else Part(sr, False)
                for i, sr in enumerate(kept)
            ]

    def _run_in_fp32(self, lr: Tensor, tile: Tile, dtype: np.dtype) -> np.ndarray:
        """What a tile keeps, outside autocast. Raises FloatingPointError where it is not finite."""
        sr = self._render(self._generator.extract(lr), tile, dtype)
        if sr is None:
            raise FloatingPointError("the generator gives values that are not finite: its weights are damaged")
        return sr

    def _render(self, features: Tensor, tile: Tile, dtype: np.dtype) -> np.ndarray | None:
        """What a tile keeps, of its features (1, C, h, w); None if it is not finite. Features that do not reach into it
        are left out."""
        rows, columns = tile.rows.inside, tile.columns.inside
        sr = np.empty((SCALE * _length(rows), SCALE * _length(columns), 3), dtype)
        across = _around(columns, _length(columns), features.shape[3])
        num_strips = math.ceil(_length(rows) / STRIP_PX[self.device.type])
        strip_px = math.ceil(_length(rows) / num_strips)
        for start in range(rows.start, rows.stop, strip_px):
            strip = slice(start, min(start + strip_px, rows.stop))
            down = _around(strip, strip_px, features.shape[2])
            planes = self._generator.render(features[:, :, down, across]).float()
            planes = planes[0, :, scaled(_shifted(strip, -down.start)), scaled(_shifted(columns, -across.start))]
            if not planes.isfinite().all():
                return None
            sr[scaled(_shifted(strip, -rows.start))] = images.to_levels(planes.cpu().numpy(), dtype)
        return sr


def empty_output(lr: np.ndarray) -> np.ndarray:
    """(4h, 4w, 3) for an image (h, w, 3), of its type, to be filled."""
    return np.empty((SCALE * lr.shape[0], SCALE * lr.shape[1], 3), lr.dtype)


def spans(length: int, tile_px: int, overlap_px: int) -> Iterator[Span]:
    """Cover 0…length with as few kept parts of at most `tile_px` as it takes, of which the outer ones have `overlap_px`
    more. All read as much as each other, and at least `overlap_px` beyond what they keep, where the image goes on.

    Of one length, since oneDNN prepares its kernels anew for each.
    """
    num = max(1, math.ceil((length - 2 * overlap_px) / tile_px))
    step = math.ceil((length - 2 * overlap_px) / num)
    read_px = min(length, step + 2 * overlap_px)
    for i in range(num):
        start = min(i * step, length - read_px)
        stop = length if i == num - 1 else (i + 1) * step + overlap_px
        yield Span(slice(start, start + read_px), slice(i * step + overlap_px if i else 0, stop))


def scaled(part: slice) -> slice:
    """LR pixels as SR pixels."""
    return slice(SCALE * part.start, SCALE * part.stop)


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def _around(part: slice, part_px: int, length: int) -> slice:
    """A part, at most `part_px` long, with what reaches into it of 0…length: of one length for all, for oneDNN."""
    radius = math.ceil(RENDER_RADIUS_PX)
    read_px = min(length, part_px + 2 * radius)
    start = min(max(0, part.start - radius), length - read_px)
    return slice(start, start + read_px)
