"""What a generator is worth on the validation photographs: distortion, perception, and what must stay healthy."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from srgan_ray.data.crops import MIXED
from srgan_ray.data.degrade import matlab_bicubic_up
from srgan_ray.data.feed import decode_row
from srgan_ray.data.shard_set import ShardSet
from srgan_ray.errors import InputError
from srgan_ray.evaluation.benchmark import Pair, load_lpips, load_pristine
from srgan_ray.evaluation.diagnostics import checkerboard, colour_drift, consistency_db
from srgan_ray.evaluation.lpips import measure_lpips
from srgan_ray.evaluation.metrics import Measurement, Protocol, average, psnr
from srgan_ray.evaluation.niqe import niqe
from srgan_ray.evaluation.perception import measure_swd
from srgan_ray.models.generator import Generator
from srgan_ray.models.upscaler import Upscaler

# 119 benchmark photographs read at most 0.29 in `checkerboard`; bicubic moves their colour by at most 0.23 levels.
MAX_COLOUR_DRIFT = 1.0
MAX_CHECKERBOARD = 0.25
MIN_CONSISTENCY_DB = 30.0

Figures = dict[str, Measurement]


class ValPair(NamedTuple):
    """A photograph of the validation split under one degradation."""

    pair: Pair
    degradation: str
    bicubic: np.ndarray
    """LR enlarged by bicubic interpolation, which every validation is compared with."""


class ValPairs(Sequence[ValPair]):
    """The first validation photographs of a shard set, under a degradation, or for `mixed` under each: held as they are
    stored, and decoded anew each time they are asked for, since large ones would not all fit into memory.

    Raises InputError where there is none, or one is damaged.
    """

    def __init__(self, data: str, degradation: str, max_photographs: int) -> None:
        shards = ShardSet(data, "val")
        self.data_hash = shards.manifest.data_hash
        rows = shards.read(range(min(len(shards), max_photographs))).values()
        self._rows = [(row, name) for row in rows for name in row.lr if degradation in (name, MIXED)]
        if not self._rows:
            raise InputError(f"--data {data} has no validation photographs under {degradation}; wanted one at least")
        for row in rows:
            decode_row(row)  # a damaged one is told now, not when it is validated

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> ValPair:  # type: ignore[override]  # no slices
        row, name = self._rows[number]
        image = decode_row(row._replace(lr={name: row.lr[name]}))
        lr = image.lr[name]
        return ValPair(Pair(f"{row.id[:8]}_{name}", image.hr, lr), name, matlab_bicubic_up(lr))


def measure_pair(val_pair: ValPair, sr: np.ndarray) -> dict[str, float]:
    """`psnr` (Y) and bicubic's, `colour_drift`, `checkerboard` and `consistency_db` of SR, `uint8` (4h, 4w, 3)."""
    (_, hr, lr), degradation, bicubic = val_pair
    return {
        "psnr": psnr(hr, sr, "y"),
        "psnr_bicubic": psnr(hr, bicubic, "y"),
        "colour_drift": colour_drift(sr, hr),
        "checkerboard": checkerboard(sr),
        "consistency_db": consistency_db(sr, lr, degradation),
    }


class Judge:
    """Measures generators on the same validation photographs, whole.

    Raises InputError for photographs, a pristine model or weights that cannot be used.
    """

    def __init__(
        self,
        data: str,
        degradation: str,
        max_photographs: int,
        precision: str = "auto",
        niqe_model: str = "",
        lpips_weights: str = "",
    ) -> None:
        self._pairs = ValPairs(data, degradation, max_photographs)
        self._precision = precision
        self._pristine = load_pristine(niqe_model, self._bare_pairs()) if niqe_model else None
        self._lpips = load_lpips(lpips_weights, self._bare_pairs()) if lpips_weights else None
        self._protocol = Protocol("psnr", "y", degradation, f"{self._pairs.data_hash}, {len(self._pairs)} of val")

    def __call__(self, generator: Generator) -> Figures:
        """What `measure_pair` measures, as means, and `perception`, lower is better: LPIPS where there are weights,
        else NIQE where there is a pristine model, else the sliced Wasserstein distance."""
        upscale, rows = Upscaler(generator, self._precision), []

        def measured() -> Iterator[tuple[np.ndarray, np.ndarray]]:  # one by one: all would not fit into memory
            for pair in self._pairs:
                sr = upscale(pair.pair.lr)
                rows.append(measure_pair(pair, sr))
                yield sr, pair.pair.hr

        perception = self._perception(measured())
        figures = {name: average((row[name] for row in rows), self._protocol_of(name)) for name in rows[0]}
        return {**figures, "perception": perception}

    def _bare_pairs(self) -> Iterator[Pair]:
        return (pair.pair for pair in self._pairs)

    def _protocol_of(self, name: str) -> Protocol:
        if name.startswith("psnr"):
            return self._protocol
        return dataclasses.replace(self._protocol, metric=name.removesuffix("_db"), colour="rgb", border_px=0)

    def _perception(self, pairs: Iterator[tuple[np.ndarray, np.ndarray]]) -> Measurement:
        """Of pairs of SR and HR."""
        if self._lpips:
            return measure_lpips(self._lpips, pairs, self._protocol)
        if self._pristine:
            protocol = dataclasses.replace(self._protocol, metric="niqe", model_hash=self._pristine.hash)
            return average((niqe(sr, self._pristine) for sr, _ in pairs), protocol)
        return measure_swd(pairs, self._protocol)


def values_of(figures: Figures) -> dict[str, float]:
    """The bare numbers."""
    return {name: figure.value for name, figure in figures.items()}


def excesses(values: Mapping[str, float]) -> dict[str, float]:
    """How far each figure that must stay healthy is beyond its limit, as a share of it; 0 or less where it is not."""
    return {
        "colour_drift": values["colour_drift"] / MAX_COLOUR_DRIFT - 1,
        "checkerboard": values["checkerboard"] / MAX_CHECKERBOARD - 1,
        "consistency_db": 1 - values["consistency_db"] / MIN_CONSISTENCY_DB,
    }


def find_faults(values: Mapping[str, float]) -> dict[str, str]:
    """What is not healthy, by the figure's name: its value and its limit."""
    limits = {
        "colour_drift": f"levels, healthy up to {MAX_COLOUR_DRIFT}",
        "checkerboard": f"levels, healthy up to {MAX_CHECKERBOARD}",
        "consistency_db": f"dB, healthy from {MIN_CONSISTENCY_DB}",
    }
    faults = {
        name: f"{name} = {values[name]:.2f} {limits[name]}"
        for name, excess in excesses(values).items()
        if not excess <= 0
    }
    if not math.isfinite(perception := values.get("perception", 0.0)):  # NIQE's of pictures without texture
        faults["perception"] = f"perception = {perception}, wanted a finite one"
    return faults
