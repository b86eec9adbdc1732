"""Which photographs a step sees, and where they are cropped: pure functions of (seed, step, slot, image id).

Slots number the places of a *global* batch, so that the crops do not depend on the number of workers or on the order
in which anything arrives, and a run that starts in the middle sees exactly what it would have seen.

Reading and decoding are dear, cropping is cheap, hence two rules. The shuffle goes over the whole set, but in windows
of a few shards, so that a worker reads whole shards and holds few of them (`Stream`). And each decoded photograph gives
several crops, in steps well apart, so that a step's crops are of as many photographs as ever (`draw`).
"""

import bisect
import dataclasses
import functools
import hashlib
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from srgan_ray.data.degrade import DEGRADATIONS, SCALE
from srgan_ray.errors import InputError

MIXED = "mixed"
SHARDS_PER_WINDOW = 16  # about a thousand photographs; two windows of encoded rows are what a worker holds
DISTANCE = 4  # batches of new photographs that a photograph is held for between two of its crops
EPOCHS_CACHED, WINDOWS_CACHED = 16, 64  # a stream moves on slowly, but a tiny set has many epochs in a step


@dataclasses.dataclass(frozen=True)
class CropConfig:
    """The batches."""

    batch_size: int = 16
    """Crops in a step, over all workers."""
    crop_px: int = 96
    """Side of an HR crop in pixels, a multiple of 4."""
    crops_per_photograph: int = 4
    """Crops that each decoded photograph gives before it is let go; they lie in steps well apart."""
    degradation: str = "opencv_cubic"
    """How LR was made: opencv_cubic, matlab_bicubic, or mixed, which draws one of them for each crop."""
    seed: int = 0
    """Decides the initial weights, the order of the photographs and the crops."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}; wanted 1 or more")
        if self.crop_px < SCALE or self.crop_px % SCALE:
            raise InputError(f"--crop-px {self.crop_px}; wanted a positive multiple of {SCALE}")
        if self.crops_per_photograph < 1:
            raise InputError(f"--crops-per-photograph {self.crops_per_photograph}; wanted 1 or more")
        if self.degradation not in (*DEGRADATIONS, MIXED):
            raise InputError(f"--degradation {self.degradation}; wanted one of {', '.join((*DEGRADATIONS, MIXED))}")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}; wanted 0 or more")


class Crop(NamedTuple):
    """A place and an orientation: offsets in LR pixels, then a left-right flip, then `turns` quarter turns."""

    top: int
    left: int
    flip: bool
    turns: int
    degradation: str


class Draw(NamedTuple):
    """What a slot takes: a position of the stream, and how many crops that photograph has given before."""

    position: int
    repeat: int


class Window(NamedTuple):
    """A run of the stream: its rows are those of a few shards, in a random order."""

    epoch: int
    number: int


class Stream:
    """The rows of a split in the order in which they are drawn; positions are all integers, also negative ones.

    Position q is place q % num_rows of epoch q // num_rows. An epoch takes every row once: its shards in an order of
    its own, cut into windows of SHARDS_PER_WINDOW, and the rows of each window shuffled. No more than the numbers of
    the shards is ever computed for an epoch, so that millions of rows cost nothing.
    """

    def __init__(self, shard_sizes: Sequence[int], seed: int) -> None:
        self._sizes = np.asarray(shard_sizes)
        self._first_rows = np.cumsum(self._sizes) - self._sizes
        self._seed = seed
        self.num_rows = int(self._sizes.sum())
        self._order = functools.lru_cache(EPOCHS_CACHED)(self._make_order)
        self.rows = functools.lru_cache(WINDOWS_CACHED)(self._make_rows)

    def row(self, position: int) -> int:
        """The row at a position."""
        window = self.window(position)
        return int(self.rows(window)[position - self.start(window)])

    def window(self, position: int) -> Window:
        """The window that a position lies in."""
        epoch, place = divmod(position, self.num_rows)
        return Window(epoch, bisect.bisect_right(self._order(epoch)[1], place) - 1)

    def start(self, window: Window) -> int:
        """The first position of a window."""
        return window.epoch * self.num_rows + self._order(window.epoch)[1][window.number]

    def windows(self, positions: range) -> list[Window]:
        """The windows that these positions lie in, in order, and the one after them."""
        windows = [self.window(positions.start)]
        while (end := self.start(windows[-1]) + len(self.rows(windows[-1]))) < positions.stop:
            windows.append(self.window(end))
        return [*windows, self.window(end)]

    def _make_order(self, epoch: int) -> tuple[np.ndarray, list[int]]:
        """An epoch's shards in order, and the place where each of its windows starts."""
        shards = _generator(self._seed, epoch).permutation(len(self._sizes))
        sizes = self._sizes[shards]
        return shards, (np.cumsum(sizes) - sizes)[::SHARDS_PER_WINDOW].tolist()

    def _make_rows(self, window: Window) -> np.ndarray:
        first = window.number * SHARDS_PER_WINDOW
        shards = self._order(window.epoch)[0][first : first + SHARDS_PER_WINDOW]
        rows = [np.arange(self._sizes[shard]) + self._first_rows[shard] for shard in shards]
        return _generator(self._seed, *window).permutation(np.concatenate(rows))


def draw(step: int, slot: int, config: CropConfig) -> Draw:
    """What `slot` of the global batch of `step` (from 1) takes from the stream.

    A slot takes a new photograph once in as many steps as each photograph gives crops. In the steps between, it comes
    back to the photographs that it took DISTANCE, 2 * DISTANCE, … turns ago, once to each; so the crops of a photograph
    lie crops_per_photograph * DISTANCE + 1 steps apart, and all in one slot, which one worker fills. Slots start
    staggered, those of a worker too: every step decodes equally many new photographs. A run begins as if it had been
    going on for ever, with the later crops of photographs at negative positions.
    """
    repeats = config.crops_per_photograph
    turn, repeat = divmod(step - 1 + (slot + slot // repeats) % repeats, repeats)
    return Draw((turn - repeat * DISTANCE) * config.batch_size + slot, repeat)


def steps_of_crops(step: int, repeat: int, config: CropConfig) -> range:
    """The steps of a photograph's crops, from the one of number `repeat`, which is in `step`, to the last."""
    apart = config.crops_per_photograph * DISTANCE + 1
    return range(step, step + (config.crops_per_photograph - repeat) * apart, apart)


def reach(step: int, config: CropConfig) -> range:
    """Positions that hold all that the slots of `step` draw; both its ends never move back from step to step."""
    repeats = config.crops_per_photograph
    first, last = (step - 1) // repeats - (repeats - 1) * DISTANCE, (step + repeats - 2) // repeats
    return range(first * config.batch_size, (last + 1) * config.batch_size)


def draw_crop(step: int, slot: int, id: str, height: int, width: int, config: CropConfig) -> Crop:
    """The crop that `slot` of `step` takes from the photograph `id`, whose HR has `height` x `width` pixels."""
    # Words of 64 bits modulo a few thousand are uniform to 1e-16, and far cheaper than to seed a generator.
    down, right, turned, degraded = struct.unpack("<4Q", _hash(config.seed, step, slot, id))
    side = config.crop_px // SCALE
    top, left = down % (height // SCALE - side + 1), right % (width // SCALE - side + 1)
    names = list(DEGRADATIONS) if config.degradation == MIXED else [config.degradation]
    return Crop(top, left, bool(turned % 2), turned // 2 % 4, names[degraded % len(names)])


def cut(image: np.ndarray, crop: Crop, side_px: int, scale: int) -> np.ndarray:
    """The crop of an image whose pixels are 1/`scale` of an LR pixel: (H, W, 3) to (side_px, side_px, 3), a copy that
    does not hold the image."""
    top, left = crop.top * scale, crop.left * scale
    part = image[top : top + side_px, left : left + side_px].copy()  # before it is turned: row by row
    return np.rot90(part[:, ::-1] if crop.flip else part, crop.turns)


def _generator(*parts: object) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(_hash(*parts)[:16]))


def _hash(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()
