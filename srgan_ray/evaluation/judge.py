"""What a generator is worth on the validation photographs: distortion, perception, and what must stay healthy."""

import dataclasses
from typing import NamedTuple

import numpy as np

from srgan_ray.data.crops import MIXED
from srgan_ray.data.degrade import matlab_bicubic_up
from srgan_ray.data.feed import decode_row
from srgan_ray.data.shard_set import ShardSet
from srgan_ray.errors import InputError
from srgan_ray.evaluation.benchmark import Pair, load_pristine
from srgan_ray.evaluation.diagnostics import checkerboard, colour_drift, consistency_db
from srgan_ray.evaluation.metrics import Measurement, Protocol, average, psnr
from srgan_ray.evaluation.niqe import niqe
from srgan_ray.evaluation.perception import sliced_wasserstein
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


def load_val_pairs(data: str, degradation: str, max_photographs: int) -> tuple[list[ValPair], str]:
    """The first validation photographs of a shard set, under a degradation, or for `mixed` under each, and the shard
    set's hash. Raises InputError where there is none."""
    rows = ShardSet(data, "val")
    images = [decode_row(row) for row in rows.read(range(min(len(rows), max_photographs))).values()]
    pairs = [
        ValPair(Pair(f"{image.id[:8]}_{name}", image.hr, lr), name, matlab_bicubic_up(lr))
        for image in images
        for name, lr in image.lr.items()
        if degradation in (name, MIXED)
    ]
    if not pairs:
        raise InputError(f"--data {data} has no validation photographs under {degradation}; wanted one at least")
    return pairs, rows.manifest.data_hash


class Judge:
    """Measures generators on the same validation photographs, whole.

    Raises InputError for photographs or a pristine model that cannot be used.
    """

    def __init__(
        self, data: str, degradation: str, max_photographs: int, precision: str = "auto", niqe_model: str = ""
    ) -> None:
        self._pairs, data_hash = load_val_pairs(data, degradation, max_photographs)
        self._precision = precision
        self._pristine = load_pristine(niqe_model, [pair.pair for pair in self._pairs]) if niqe_model else None
        self._protocol = Protocol("psnr", "y", degradation, f"{data_hash}, {len(self._pairs)} of val")

    def __call__(self, generator: Generator) -> Figures:
        """`psnr` and `psnr_bicubic`, higher is better; `perception`, lower is: NIQE where there is a pristine model,
        else the sliced Wasserstein distance; `colour_drift`, `checkerboard` and `consistency_db`."""
        upscale = Upscaler(generator, self._precision)
        judged = [(pair, upscale(pair.pair.lr)) for pair in self._pairs]
        of_all = dataclasses.replace(self._protocol, colour="rgb", border_px=0)

        def mean(metric: str, values: list[float]) -> Measurement:
            return average(values, dataclasses.replace(of_all, metric=metric))

        return {
            "psnr": average((psnr(pair.pair.hr, sr, "y") for pair, sr in judged), self._protocol),
            "psnr_bicubic": average((psnr(pair.pair.hr, pair.bicubic, "y") for pair, _ in judged), self._protocol),
            "perception": self._perception([sr for _, sr in judged]),
            "colour_drift": mean("colour_drift", [colour_drift(sr, pair.pair.hr) for pair, sr in judged]),
            "checkerboard": mean("checkerboard", [checkerboard(sr) for _, sr in judged]),
            "consistency_db": mean(
                "consistency", [consistency_db(sr, pair.pair.lr, pair.degradation) for pair, sr in judged]
            ),
        }

    def _perception(self, srs: list[np.ndarray]) -> Measurement:
        if self._pristine:
            protocol = dataclasses.replace(self._protocol, metric="niqe", model_hash=self._pristine.hash)
            return average((niqe(sr, self._pristine) for sr in srs), protocol)
        value = sliced_wasserstein(srs, [pair.pair.hr for pair in self._pairs])
        protocol = dataclasses.replace(self._protocol, metric="swd", colour="rgb", border_px=0)
        return Measurement(value, dataclasses.replace(protocol, average="patches of all images"))


def excesses(figures: Figures) -> dict[str, float]:
    """How far each figure that must stay healthy is beyond its limit, as a share of it; 0 or less where it is not."""
    drift, pattern, consistency = (figures[name].value for name in ("colour_drift", "checkerboard", "consistency_db"))
    return {
        "colour_drift": drift / MAX_COLOUR_DRIFT - 1,
        "checkerboard": pattern / MAX_CHECKERBOARD - 1,
        "consistency_db": 1 - consistency / MIN_CONSISTENCY_DB,
    }


def find_faults(figures: Figures) -> list[str]:
    """What is not healthy about a generator, each in one line with the limit."""
    limits = {
        "colour_drift": f"at most {MAX_COLOUR_DRIFT} levels",
        "checkerboard": f"at most {MAX_CHECKERBOARD} levels",
        "consistency_db": f"at least {MIN_CONSISTENCY_DB}",
    }
    return [
        f"{name} = {figures[name].value:.2f}, wanted {limits[name]}"
        for name, excess in excesses(figures).items()
        if not excess <= 0
    ]
