"""What prepare and training take at other sizes, by arithmetic from measured figures, and what breaks first there.

    python benchmarks/scale.py
    python benchmarks/scale.py --stage train --step-s 0.05 --network-gbit 25
    python benchmarks/scale.py --measure SHARDS

The table has a line for 1, 8 and 64 GPUs, each in a machine of its own, and for 20 thousand, 1 million and 100 million
photographs like Stanford Dogs'. The batch grows with the GPUs. Gradients are averaged by ring all-reduce after each
step, which is the worst case: DistributedDataParallel begins during the backward pass. The feed works beside the steps.
What breaks first is the part with the highest load: what it needs over what it has.

With --measure the real trainer takes steps with one worker and then with two on this machine, a CPU each; what the
second takes is predicted from the first and from a bare all-reduce between two processes, and both are printed.
"""

import dataclasses
import hashlib
import json
import math
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
import tyro

from srgan_ray.config import PretrainConfig, RunConfig, TrainConfig
from srgan_ray.data.crops import CropConfig
from srgan_ray.data.forensics import BAND_BITS, NUM_BANDS, Finding, group_alike
from srgan_ray.data.manifest import Request
from srgan_ray.data.shard_set import REQUESTS_AT_ONCE, ShardSet
from srgan_ray.data.shards import ROWS_PER_SHARD, plan_shards
from srgan_ray.data.sources import Photograph
from srgan_ray.models.discriminator import DiscriminatorConfig, build_discriminator
from srgan_ray.models.generator import GeneratorConfig, build_generator
from srgan_ray.models.perceptual import RANDOM
from srgan_ray.on_ray.session import ray_session
from srgan_ray.training import plain
from srgan_ray.training.loop import LoopConfig

NUM_GPUS = (1, 8, 64)
NUM_PHOTOGRAPHS = (20_000, 1_000_000, 100_000_000)
PRETRAIN, TRAIN = "pretrain", "train"
# Of a batch of 16 on the fastest GPUs, as in feed.py; one of `train` took 4.7 times as long on a CPU.
STEP_S = {PRETRAIN: 1 / 250, TRAIN: 4.7 / 250}
# Requests, counted on a local S3. Of a shard that is read: HEAD and GET, of several shards at once. Of a photograph
# that is prepared from a tar: HEAD and GET, and its share of those for parts and shards. Where that S3 was made wait,
# those of a part's findings came one after the other, those of several parts at once.
REQUESTS_PER_SHARD = 2
READS_PER_PHOTOGRAPH, WRITES_PER_PHOTOGRAPH = 2.6, 0.16
REQUESTS_PER_PART = 6  # of the findings
PART_BYTES = 2**20  # of the source, as in on_ray/ingest.py, which imports ray


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The measured figures, rates and prices. CPU seconds are those of one thread of a CPU of 2026, on 400 photographs
    at full size."""

    stage: Literal["pretrain", "train"] = "pretrain"
    """pretrain, or train, which also averages the discriminator's gradients."""
    step_s: float = 0
    """Seconds of a worker's step, its batch there already: plain_step.py. 0: 1/250 for pretrain, 4.7/250 for train."""
    batch_size: int = 16
    """Crops of each worker in a step."""
    steps: int = 20_000
    """Steps of a run."""
    crops_per_photograph: int = 4
    """Crops from each photograph in an epoch."""
    crop_cpu_s: float = 0.0007
    """CPU seconds of the feed for a crop, with its share of reading and decoding: feed.py."""
    prepare_cpu_s: float = 0.0115
    """CPU seconds of prepare for a photograph: preparation.py."""
    cpus_per_gpu: int = 8
    """CPUs beside each GPU; prepare gets as many for each."""
    source_bytes: float = 38_570
    """Of a photograph: Stanford Dogs has 757 MiB in 20,580."""
    shard_ratio: float = 2.12
    """Bytes in the shards over those of the source."""
    driver_bytes: float = 0
    """Memory of the command's own process in prepare for each photograph; 0: measured now."""
    pair_s: float = 0
    """Seconds of comparing a pair in the search for look-alikes; 0: measured now."""
    driver_memory_gb: float = 8
    """Of the machine that the command runs on."""
    network_gbit: float = 10
    """Gbit/s of each machine."""
    hop_s: float = 50e-6
    """Seconds until a message reaches the next machine."""
    request_s: float = 0.03
    """Seconds until object storage begins to answer."""
    requests_per_s: float = 5500
    """Reads that object storage takes of one prefix: what AWS says of S3."""
    gpu_hour: float = 1.0
    """Dollars for a machine with a GPU. A round figure, as the other prices: look up yours."""
    cpu_hour: float = 0.05
    """Dollars for a CPU, memory included."""
    gb_month: float = 0.023
    """Dollars for keeping a GB for a month."""
    read_request: float = 4e-7
    """Dollars."""
    write_request: float = 5e-6
    """Dollars."""


class Estimate(NamedTuple):
    """One line of the table."""

    gpus: int
    photographs: int
    prepare_s: float
    step_s: float
    epoch_s: float
    run_s: float
    all_reduce_bytes: float
    """That each worker sends in a step."""
    all_reduce_share: float
    """Of the step."""
    shard_bytes: float
    read_bytes: float
    """From the shards, by all workers, in an epoch."""
    requests: float
    """For the shards, by all workers, in an epoch."""
    dollars: float
    """Prepare, the run with its requests, and a month of the shards."""
    loads: dict[str, float]
    """What each part needs over what it has."""

    @property
    def breaks_first(self) -> str:
        """The part with the highest load."""
        return max(self.loads, key=self.loads.__getitem__)


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Other sizes by arithmetic."""

    inputs: tyro.conf.OmitArgPrefixes[Inputs] = Inputs()
    measure: str = ""
    """Shard set: instead of the table, two workers as predicted and as they are."""
    measured_steps: int = 12
    """Steps of each side of --measure."""


def main(config: BenchmarkConfig) -> None:
    """Print the table, or the comparison, then one JSON object."""
    inputs = complete(config.inputs)
    if config.measure:
        result = compare(inputs, config.measure, config.measured_steps)
    else:
        estimates = [estimate(inputs, gpus, number) for number in NUM_PHOTOGRAPHS for gpus in NUM_GPUS]
        print(render(estimates))
        lines = [{**line._asdict(), "breaks_first": line.breaks_first} for line in estimates]
        result = {"inputs": dataclasses.asdict(inputs), "estimates": lines}
    print(json.dumps(result))


def complete(inputs: Inputs) -> Inputs:
    """The inputs with what was left to be measured."""
    return dataclasses.replace(
        inputs,
        step_s=inputs.step_s or STEP_S[inputs.stage],
        driver_bytes=inputs.driver_bytes or measure_driver_bytes(),
        pair_s=inputs.pair_s or measure_pair_s(),
    )


# The model.


def estimate(inputs: Inputs, gpus: int, photographs: int) -> Estimate:
    """What so many GPUs take for so many photographs."""
    cpus = gpus * inputs.cpus_per_gpu
    examine_s = photographs * inputs.prepare_cpu_s / cpus
    parts = photographs * inputs.source_bytes / PART_BYTES
    findings_s = parts * REQUESTS_PER_PART * inputs.request_s / REQUESTS_AT_ONCE
    look_alikes_s = num_pairs(photographs) * inputs.pair_s
    steps_per_epoch = photographs * inputs.crops_per_photograph / (inputs.batch_size * gpus)
    reduce_s = all_reduce_s(inputs, gpus)
    compute_s = inputs.step_s + reduce_s
    feed_s = inputs.batch_size * inputs.crop_cpu_s / inputs.cpus_per_gpu
    shards = math.ceil(photographs / ROWS_PER_SHARD)
    opened = touched(gpus, ROWS_PER_SHARD)
    shard_bytes = photographs * inputs.source_bytes * inputs.shard_ratio
    read_bytes = gpus * opened * shard_bytes
    requests = gpus * shards * opened * REQUESTS_PER_SHARD
    waits_s = requests * inputs.request_s / REQUESTS_AT_ONCE
    reading_s = (waits_s + read_bytes / bytes_per_s(inputs)) / gpus / steps_per_epoch
    step_s = max(compute_s, feed_s, reading_s, requests / steps_per_epoch / inputs.requests_per_s)
    examining_s = max(examine_s, photographs * READS_PER_PHOTOGRAPH / inputs.requests_per_s)
    prepare_s = examining_s + findings_s + look_alikes_s
    run_s = inputs.steps * step_s
    dollars = (
        prepare_s / 3600 * cpus * inputs.cpu_hour
        + run_s / 3600 * gpus * inputs.gpu_hour
        + shard_bytes / 1e9 * inputs.gb_month
        + photographs * (READS_PER_PHOTOGRAPH * inputs.read_request + WRITES_PER_PHOTOGRAPH * inputs.write_request)
        + requests * inputs.steps / steps_per_epoch * inputs.read_request
    )
    loads = {
        "all-reduce": reduce_s / inputs.step_s,
        "decoding and cropping": feed_s / compute_s,
        "reading shards": reading_s / compute_s,
        "storage's request rate": requests / steps_per_epoch / inputs.requests_per_s / compute_s,
        "the driver's memory": photographs * inputs.driver_bytes / (inputs.driver_memory_gb * 1e9),
        "reading the findings": findings_s / examine_s,
        "the search for look-alikes": look_alikes_s / examine_s,
    }
    return Estimate(
        gpus, photographs, prepare_s, step_s, steps_per_epoch * step_s, run_s, all_reduce_bytes(inputs, gpus),
        reduce_s / step_s, shard_bytes, read_bytes, requests, dollars, loads,
    )  # fmt: skip


def gradient_bytes(stage: str) -> int:
    """Of the paper's networks that the stage trains, in fp32."""
    networks: list[torch.nn.Module] = [build_generator(GeneratorConfig(), 0)]
    if stage == TRAIN:
        networks.append(build_discriminator(DiscriminatorConfig(), CropConfig().crop_px, 0))
    return 4 * sum(parameter.numel() for network in networks for parameter in network.parameters())


def all_reduce_bytes(inputs: Inputs, gpus: int) -> float:
    """What each worker sends in a step: all gradients but its own part of them, twice."""
    return 2 * (gpus - 1) / gpus * gradient_bytes(inputs.stage)


def all_reduce_s(inputs: Inputs, gpus: int) -> float:
    """Seconds of averaging the gradients round the ring."""
    return all_reduce_bytes(inputs, gpus) / bytes_per_s(inputs) + 2 * (gpus - 1) * inputs.hop_s


def bytes_per_s(inputs: Inputs) -> float:
    """Of each machine's network."""
    return inputs.network_gbit * 1e9 / 8


def touched(gpus: int, rows: int) -> float:
    """How many of the shards of so many rows each worker reads: its own rows lie anywhere in them."""
    return 1 - (1 - 1 / gpus) ** rows


def num_pairs(photographs: int) -> float:
    """That are compared: each photograph, mirrored too, with those that agree with it in a band of bits."""
    return NUM_BANDS * (2 * photographs) ** 2 / 2 / 2**BAND_BITS


def render(estimates: list[Estimate]) -> str:
    """The table as text."""
    heads = (
        "GPUs", "photographs", "prepare", "epoch", "run", "step", "all-reduce", "of step", "shards", "read/epoch",
        "requests/epoch", "dollars", "breaks first", "load",
    )  # fmt: skip
    rows = [heads, *(_cells(line) for line in estimates)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows)


def _cells(line: Estimate) -> tuple[str, ...]:
    load = line.loads[line.breaks_first]
    return (
        str(line.gpus), f"{line.photographs:,}", _time(line.prepare_s), _time(line.epoch_s), _time(line.run_s),
        f"{line.step_s * 1000:.1f} ms", _bytes(line.all_reduce_bytes), f"{line.all_reduce_share:.0%}",
        _bytes(line.shard_bytes), _bytes(line.read_bytes), f"{line.requests:,.0f}", f"{line.dollars:,.0f}",
        line.breaks_first if load > 1 else f"nothing; nearest: {line.breaks_first}", f"{load:,.2f}",
    )  # fmt: skip


def _time(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _bytes(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number:.0f} B"


# What is measured.


def measure_driver_bytes(number: int = 500) -> float:
    """Memory for each photograph of the listing, the findings and the plan of the shards, at its highest."""
    tracemalloc.start()
    names = (f"breed/{index:09d}.jpg" for index in range(number))
    photographs = {name: Photograph(name, "s3://bucket/images.tar", 0, 38_570) for name in names}
    plan_shards([[_finding(index) for index in range(len(photographs))]], Request(""))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / number


def _finding(index: int) -> Finding:
    digest = hashlib.sha256(str(index).encode())
    id, signature = digest.hexdigest()[:32], digest.digest()
    name = f"breed/{index:09d}.jpg"
    return Finding(name, name[:5], id, 375, 500, 38_570, "JPEG", 90, index * 1.1, index * 1.3, signature)


def measure_pair_s(number: int = 8000) -> float:
    """Seconds for each pair of signatures that is compared."""
    signatures = [np.random.default_rng(index).bytes(32) for index in range(number)]
    started = time.perf_counter()
    group_alike(signatures)
    return (time.perf_counter() - started) / num_pairs(number)


# Two workers, predicted and real.


def compare(inputs: Inputs, data: str, steps: int) -> dict[str, Any]:
    """Seconds of a step with two workers: predicted from one worker's, and real."""
    with tempfile.TemporaryDirectory() as scratch, ray_session():
        make = _run_config(inputs, data, scratch)
        one = _real_step_s(make, 1, steps)
        reduce_s = _bare_all_reduce_s(gradient_bytes(inputs.stage))
        gbit = 8 * gradient_bytes(inputs.stage) / reduce_s / 1e9
        predicted = one + all_reduce_s(dataclasses.replace(inputs, network_gbit=gbit, hop_s=0), 2)
        real = _real_step_s(make, 2, steps)
    print(f"one worker {one:.3f} s a step, bare all-reduce {reduce_s:.4f} s ({gbit:.1f} Gbit/s)")
    print(f"two workers: predicted {predicted:.3f} s, real {real:.3f} s, predicted / real {predicted / real:.3f}")
    return {"one_s": one, "all_reduce_s": reduce_s, "predicted_s": predicted, "real_s": real, "ratio": predicted / real}


def _run_config(inputs: Inputs, data: str, scratch: str) -> Callable[[int, LoopConfig], RunConfig]:
    init = PretrainConfig(data, f"{scratch}/init", loop=LoopConfig(steps=1, max_val_photographs=1))
    if inputs.stage == TRAIN:
        plain.fit(init)

    def make(workers: int, loop: LoopConfig) -> RunConfig:
        crops = CropConfig(batch_size=workers * inputs.batch_size)
        out = f"{scratch}/{workers}"
        if inputs.stage == PRETRAIN:
            return PretrainConfig(data, out, crops, loop, num_workers=workers)
        return TrainConfig(data, out, crops, loop, num_workers=workers, init=init.out, vgg_weights=RANDOM)

    return make


def _real_step_s(make: Callable[[int, LoopConfig], RunConfig], workers: int, steps: int) -> float:
    """Between the first validation, before which every photograph is decoded once, and the last."""
    from srgan_ray.on_ray import trainer

    config = make(workers, LoopConfig())
    crops = len(ShardSet(config.data, "train")) * config.crops.crops_per_photograph
    warm_up = max(steps, math.ceil(crops / config.crops.batch_size))
    loop = LoopConfig(warm_up + steps, warm_up, 10**9, max_val_photographs=1)
    trainer.fit(make(workers, loop), num_cpus=1)
    rows = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]
    return float(rows[-1]["seconds_per_step"])


def _bare_all_reduce_s(num_bytes: int) -> float:
    """Median seconds of an all-reduce between two processes of this machine."""
    with tempfile.TemporaryDirectory() as scratch:
        torch.multiprocessing.spawn(_all_reduce, (scratch, num_bytes), nprocs=2)
        return float((Path(scratch) / "seconds").read_text())


def _all_reduce(rank: int, scratch: str, num_bytes: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=2)
    gradients, seconds = torch.zeros(num_bytes // 4), []
    for _ in range(20):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(gradients)
        seconds.append(time.perf_counter() - started)
    if rank == 0:
        (Path(scratch) / "seconds").write_text(str(statistics.median(seconds)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
