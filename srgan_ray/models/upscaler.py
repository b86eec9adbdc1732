"""A generator applied to an image of any size: tile, run, join. What is measured with it is what is served."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from srgan_ray.data import images
from srgan_ray.data.degrade import SCALE
from srgan_ray.models.generator import Generator, fold_batchnorm
from srgan_ray.models.precision import FP32, autocast, best_device, resolve_precision

TILE_PX = 192  # LR pixels that a tile contributes; with the overlap of 16 blocks it reads 272


class Span(NamedTuple):
    """Along one axis, in LR pixels: a tile reads `read` and contributes `keep`."""

    read: slice
    keep: slice


class Upscaler:
    """RGB (h, w, 3), `uint8` or `uint16`, to (4h, 4w, 3) of the same type.

    The tiles' overlap is the generator's receptive radius.
    Every kept pixel thus sees all the input that it would see in the whole image, and the joined tiles equal the
    output for the whole image.
    """

    def __init__(self, generator: Generator, precision: str = "auto", tile_px: int = TILE_PX) -> None:
        self.device = best_device()
        self.precision = resolve_precision(precision, self.device)
        self._autocast = autocast(self.precision, self.device)
        self._generator = fold_batchnorm(generator).to(self.device).to(memory_format=torch.channels_last)
        self._tile_px = tile_px
        self._overlap_px = generator.receptive_radius_px

    def __call__(
        self,
        lr: np.ndarray,
        before_tile: Callable[[], None] = lambda: None,
        on_overflow: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Upscale an image. `before_tile` is called before each tile and may raise to give up; `on_overflow` for each
        tile that was not finite in half precision and had to be run again in fp32.

        Raises FloatingPointError where that is not finite either.
        """
        height, width = lr.shape[:2]
        sr = np.empty((SCALE * height, SCALE * width, 3), lr.dtype)
        for rows in spans(height, self._tile_px, self._overlap_px):
            for columns in spans(width, self._tile_px, self._overlap_px):
                before_tile()
                tile = self._run(lr[rows.read, columns.read], on_overflow)
                sr[scaled(rows.keep), scaled(columns.keep)] = tile[inside(rows), inside(columns)]
        return sr

    def _run(self, tile: np.ndarray, on_overflow: Callable[[], None]) -> np.ndarray:
        lr = torch.from_numpy(images.to_float(tile))[None].to(self.device, memory_format=torch.channels_last)
        with torch.inference_mode():
            with self._autocast():
                sr = self._generator(lr)
            if self.precision != FP32 and not sr.isfinite().all():
                on_overflow()
                sr = self._generator(lr)
            if not sr.isfinite().all():
                raise FloatingPointError("the generator gives values that are not finite: its weights are damaged")
        return images.to_levels(sr[0].float().cpu().numpy(), tile.dtype)


def spans(length: int, tile_px: int, overlap_px: int) -> Iterator[Span]:
    """Cover 0…length with kept parts of at most `tile_px`, each read with `overlap_px` more where the image goes on."""
    for start in range(0, length, tile_px):
        stop = min(start + tile_px, length)
        yield Span(slice(max(0, start - overlap_px), min(length, stop + overlap_px)), slice(start, stop))


def scaled(part: slice) -> slice:
    """LR pixels as SR pixels."""
    return slice(SCALE * part.start, SCALE * part.stop)


def inside(span: Span) -> slice:
    """The kept part, counted from where the reading began, in SR pixels."""
    return scaled(slice(span.keep.start - span.read.start, span.keep.stop - span.read.start))
