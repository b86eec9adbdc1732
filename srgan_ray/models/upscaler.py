"""A generator applied to an image of any size: tile, run, join. What is measured with it is what is served."""

from collections.abc import Iterator, Sequence
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


class Tile(NamedTuple):
    """A part of an image, in LR pixels."""

    rows: Span
    columns: Span

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what it reads."""
        height, width = (span.read.stop - span.read.start for span in self)
        return height, width

    def cut(self, lr: np.ndarray) -> np.ndarray:
        """What it reads of the image (h, w, 3)."""
        return lr[self.rows.read, self.columns.read]

    def paste(self, part: np.ndarray, sr: np.ndarray) -> None:
        """Put what it contributes, of the generator's output for what it read, into the whole output."""
        sr[scaled(self.rows.keep), scaled(self.columns.keep)] = part[inside(self.rows), inside(self.columns)]


class Outputs(NamedTuple):
    """Of a batch of equal parts: RGB (4h, 4w, 3) for each, and whether half precision was not enough for it."""

    parts: list[np.ndarray]
    overflowed: list[bool]


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
            tile.paste(self.run([tile.cut(lr)]).parts[0], sr)
        return sr

    def tiles(self, height: int, width: int) -> list[Tile]:
        """The tiles of an image of this size."""
        return [
            Tile(rows, columns)
            for rows in spans(height, self._tile_px, self._overlap_px)
            for columns in spans(width, self._tile_px, self._overlap_px)
        ]

    def run(self, parts: Sequence[np.ndarray]) -> Outputs:
        """The generator on a batch of parts (h, w, 3) of equal size and type. A part whose output is not finite in half
        precision is run again in fp32.

        Raises FloatingPointError where that is not finite either.
        """
        planes = torch.from_numpy(images.to_float(np.stack(parts)))
        lr = planes.to(self.device, memory_format=torch.channels_last)
        with torch.inference_mode():
            with self._autocast():
                sr = self._generator(lr).float()
            overflowed = ~sr.isfinite().flatten(1).all(dim=1)
            if self.precision != FP32 and overflowed.any():
                sr[overflowed] = self._generator(lr[overflowed].contiguous(memory_format=torch.channels_last))
            if not sr.isfinite().all():
                raise FloatingPointError("the generator gives values that are not finite: its weights are damaged")
        return Outputs(list(images.to_levels(sr.cpu().numpy(), parts[0].dtype)), overflowed.tolist())


def empty_output(lr: np.ndarray) -> np.ndarray:
    """(4h, 4w, 3) for an image (h, w, 3), of its type, to be filled."""
    return np.empty((SCALE * lr.shape[0], SCALE * lr.shape[1], 3), lr.dtype)


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
