"""What the training feed costs: over decoding and cropping alone, and beside Ray Data on the same shards.

Bare: photographs decoded and crops cut from them in a plain loop, from encoded rows that are in memory. Feed: batches
of the paper's size, with nothing kept decoded, as on a set that memory cannot hold; its time counts from when photo-
graphs are in all stages of use. Ray Data: `read_parquet`, `map_batches`, `streaming_split(1)`, `iter_torch_batches`,
with the same number of crops from each photograph, but all of them in one batch. The runs alternate.

    srgan-ray prepare SOURCE --out SHARDS --limit 2000
    python benchmarks/feed.py --data SHARDS

prints the medians of the rates in crops/s, their ratios, and the cores that a GPU of GPU_STEPS_PER_S needs beside it.
"""

import dataclasses
import functools
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro

from srgan_ray.data import feed
from srgan_ray.data.crops import DISTANCE, MIXED, CropConfig, cut, draw_crop
from srgan_ray.data.degrade import SCALE
from srgan_ray.data.feed import Feed, decode_row
from srgan_ray.data.shard_set import Row, ShardSet
from srgan_ray.data.storage import Folder, below
from srgan_ray.errors import InputError
from srgan_ray.on_ray.session import ray_session

GPU_STEPS_PER_S = 250  # batches of 16: what the fastest GPUs take
NUM_BARE_ROWS = 500


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """The training feed beside what it cannot do without, and beside Ray Data."""

    data: str
    """Shard set."""
    crops: CropConfig = CropConfig()
    rounds: int = 3
    """Alternations of all of them."""
    steps: int = 200
    """Batches in a round of the feed."""
    ray_epochs: int = 8
    """Passes over the shards in a round of Ray Data, in one go; the time counts from its first batch."""

    def __post_init__(self) -> None:
        if self.crops.degradation == MIXED:
            raise InputError(f"--crops.degradation {MIXED}; wanted one, so that all sides decode the same images")


class Rate(NamedTuple):
    """Crops per second of the clock, and per second of this process's CPU time."""

    wall: float
    cpu: float


def main(config: BenchmarkConfig) -> None:
    """Measure all, print the rates and ratios, then one JSON object."""
    num_cpus = len(os.sched_getaffinity(0))
    feed.DECODED_BUDGET_MB = 0
    torch.set_num_threads(1)
    sides: dict[str, Callable[[], Rate]] = {
        "bare": lambda: _rate_of_bare(config),
        "feed_1_thread": lambda: _rate_of_feed(config, 1),
        f"feed_{num_cpus}_threads": lambda: _rate_of_feed(config, num_cpus),
        "ray_data": lambda: _rate_of_ray_session(config),
    }
    rounds = [{name: measure() for name, measure in sides.items()} for _ in range(config.rounds)]
    rates = {name: Rate(*map(statistics.median, zip(*(found[name] for found in rounds)))) for name in sides}
    bare, one, every, ray_data = rates.values()
    ratios = {
        "feed_over_bare_wall": one.wall / bare.wall,
        "feed_over_bare_cpu": one.cpu / bare.cpu,
        "feed_over_ray_data": every.wall / ray_data.wall,
        "cores_per_gpu": GPU_STEPS_PER_S * config.crops.batch_size / one.cpu,
    }
    for name, rate in rates.items():
        print(f"{name}: {rate.wall:.0f} crops/s")
    print(f"feed_1_thread: {one.cpu:.0f} crops for a second of CPU time, bare: {bare.cpu:.0f}")
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3f}")
    repeats = config.crops.crops_per_photograph
    rates_and_ratios = {**{name: rate._asdict() for name, rate in rates.items()}, **ratios}
    print(json.dumps({"crops_per_photograph": repeats, "cpus": num_cpus, **rates_and_ratios, "rounds": rounds}))


def _rate_of_bare(config: BenchmarkConfig) -> Rate:
    rows = ShardSet(config.data, "train", [config.crops.degradation])
    encoded = list(rows.read(range(min(NUM_BARE_ROWS, len(rows)))).values())
    return _time(lambda: sum(len(_crop(row, config.crops)[1]) for row in encoded))


def _crop(row: Row, config: CropConfig) -> tuple[np.ndarray, np.ndarray]:
    """The crops of a photograph, LR (K, side, side, 3) and HR (K, 4 side, 4 side, 3), `uint8`."""
    image = decode_row(row)
    places = [draw_crop(n, 0, row.id, row.height, row.width, config) for n in range(config.crops_per_photograph)]
    lr = [cut(image.lr[place.degradation], place, config.crop_px // SCALE, 1) for place in places]
    hr = [cut(image.hr, place, config.crop_px, SCALE) for place in places]
    return np.stack(lr), np.stack(hr)


def _rate_of_feed(config: BenchmarkConfig, num_threads: int) -> Rate:
    repeats = config.crops.crops_per_photograph
    warm_up = repeats * (repeats * DISTANCE + 1)
    batches = Feed(config.data, config.crops, num_threads=num_threads).batches(1, 10**9)
    _take(batches, warm_up)
    rate = _time(lambda: _take(batches, config.steps) * config.crops.batch_size)
    batches.close()
    return rate


def _take(batches: Iterator[Any], number: int) -> int:
    return sum(1 for _ in itertools.islice(batches, number))


def _rate_of_ray_session(config: BenchmarkConfig) -> Rate:
    """In a Ray that ends with it, whose processes would take CPU time from the next round."""
    with ray_session():
        return _rate_of_ray_data(config)


def _rate_of_ray_data(config: BenchmarkConfig) -> Rate:
    import ray

    rows = ShardSet(config.data, "train", [config.crops.degradation])
    columns = ["id", "hr", f"lr_{config.crops.degradation}", "height", "width"]
    paths = [below(str(Folder(config.data)), shard.path) for shard in rows.shards]
    dataset = ray.data.read_parquet(paths).select_columns(columns)
    dataset = dataset.union(*[dataset] * (config.ray_epochs - 1))  # a path that is named twice is read once
    dataset = dataset.map_batches(functools.partial(_crop_batch, config.crops), batch_format="pyarrow", batch_size=16)
    [iterator] = dataset.streaming_split(1)
    batches = iter(iterator.iter_torch_batches(batch_size=config.crops.batch_size))
    _take(batches, 1)
    return _time(lambda: sum(len(_to_float(batch)["hr"]) for batch in batches))


def _crop_batch(config: CropConfig, table: Any) -> dict[str, np.ndarray]:
    name = f"lr_{config.degradation}"
    rows = [
        Row(fields["id"], "", fields["hr"], {config.degradation: fields[name]}, fields["height"], fields["width"])
        for fields in table.to_pylist()
    ]
    lr, hr = zip(*(_crop(row, config) for row in rows))
    return {"lr": np.concatenate(lr), "hr": np.concatenate(hr)}


def _to_float(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: images.permute(0, 3, 1, 2).float().div_(255) for name, images in batch.items()}


def _time(run: Callable[[], int]) -> Rate:
    """Of the crops whose number `run` returns."""
    wall, cpu = time.perf_counter(), time.process_time()
    num_crops = run()
    return Rate(num_crops / (time.perf_counter() - wall), num_crops / (time.process_time() - cpu))


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
