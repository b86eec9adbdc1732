"""The reference's whole schedule on one GPU, and how near its two steps come to what the GPU can multiply.

The paper's networks (16 blocks of 64 features, batch 16, crops of 96), 20,000 steps of pretraining and then 5,000 of
SRGAN (with a random VGG19), by the plain loop without Ray, fed from shards: seconds of the run itself with its
validations and checkpoints. After each stage, on one batch again and again: a step launched kernel by kernel, the same
step as a graph, how far the losses of the two lie apart, the share of the bf16 peak (of a large matrix product measured
in the same process), and the kernels that take the most time.

    srgan-ray prepare SOURCE --out SHARDS
    python benchmarks/schedule.py --data SHARDS

prints one JSON object, and the kernels on standard error.
"""

import dataclasses
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import tyro
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from srgan_ray.config import PretrainConfig, RunConfig, TrainConfig
from srgan_ray.data.crops import CropConfig
from srgan_ray.data.feed import Feed
from srgan_ray.errors import InputError
from srgan_ray.models.perceptual import RANDOM
from srgan_ray.training import plain, stages
from srgan_ray.training.loop import LoopConfig

PEAK_SIDE = 8192  # of the matrices whose product is the peak
LOSSES = 20  # steps whose losses are compared
PROFILED = 10  # steps


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """The whole schedule on one GPU."""

    data: str
    """Shard set."""
    pretrain_steps: int = 20000
    """Steps of the first stage."""
    train_steps: int = 5000
    """Steps of the second stage."""
    timed_steps: int = 100
    """Steps on one batch, three times."""


def main(config: BenchmarkConfig) -> None:
    """Measure both stages and print one JSON object."""
    if not torch.cuda.is_available():
        raise InputError("no GPU; wanted one: benchmarks/training_step.py measures a step on any machine")
    peak = _measure_peak()
    results: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "peak_tflops": peak}
    with tempfile.TemporaryDirectory() as scratch:
        for stage in _stages(config, scratch):
            name = "train" if isinstance(stage, TrainConfig) else "pretrain"
            started = time.perf_counter()
            summary = plain.fit(stage)
            run = {
                "run_s": time.perf_counter() - started,
                "loop_s": summary["elapsed_s"],
                "run_step_s": summary["seconds_per_step"],  # in the second half
            }
            results[name] = {"steps": stage.loop.steps, **run, **_measure_step(stage, config.timed_steps, peak)}
            print(f"{name}: {results[name]}", file=sys.stderr)
    print(json.dumps(results))


def _stages(config: BenchmarkConfig, scratch: str) -> list[RunConfig]:
    def loop(steps: int) -> LoopConfig:
        return LoopConfig(steps=steps, evaluate_every=steps // 2, checkpoint_every=steps, max_val_photographs=16)

    crops = CropConfig(degradation="matlab_bicubic")
    init = PretrainConfig(config.data, f"{scratch}/init", crops, loop(config.pretrain_steps))
    train = TrainConfig(
        config.data, f"{scratch}/run", crops, loop(config.train_steps), init=init.out, vgg_weights=RANDOM
    )
    return [init, train]


def _measure_step(config: RunConfig, num: int, peak: float) -> dict[str, float]:
    batch = Feed(config.data, config.crops).batch(1)
    graphed = stages.build_stage(config, stages.single_worker()).take_step
    with FlopCounterMode(display=False) as counter:
        _build_eager(config)(batch)
    tflop = counter.get_total_flops() / 1e12
    eager = _build_eager(config)
    eager_losses, graphed_losses = ([take(batch)["loss"].item() for _ in range(LOSSES)] for take in (eager, graphed))
    eager_s, graphed_s = (_time(functools.partial(take, batch), num) for take in (eager, graphed))
    _print_kernels(functools.partial(graphed, batch))
    return {
        "eager_s": eager_s,
        "graphed_s": graphed_s,
        "eager_over_graphed": eager_s / graphed_s,
        "loss_apart": statistics.mean(abs(a - b) / b for a, b in zip(graphed_losses, eager_losses)),
        "tflop": tflop,
        "share_of_peak": tflop / graphed_s / peak,
    }


def _build_eager(config: RunConfig) -> stages.TakeStep:
    graphed, stages.GraphedStep = stages.GraphedStep, lambda take_step: take_step  # type: ignore[misc, assignment, return-value]
    try:
        return stages.build_stage(config, stages.single_worker()).take_step
    finally:
        stages.GraphedStep = graphed  # type: ignore[misc]


def _measure_peak() -> float:
    """TFLOP/s of a product of two large bf16 matrices of random numbers."""
    left, right = torch.randn(2, PEAK_SIDE, PEAK_SIDE, device="cuda", dtype=torch.bfloat16)
    return 2 * PEAK_SIDE**3 / 1e12 / _time(lambda: left @ right, 50)


def _time(action: Callable[[], object], num: int) -> float:
    """Seconds of one, the median of three rounds of `num`."""
    rounds = []
    for number in range(4):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(num):
            action()
        torch.cuda.synchronize()
        if number:  # the first warms up
            rounds.append((time.perf_counter() - started) / num)
    return statistics.median(rounds)


def _print_kernels(action: Callable[[], object]) -> None:
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(PROFILED):
            action()
        torch.cuda.synchronize()
    table = profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=25, max_name_column_width=90)
    print(table, file=sys.stderr)


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
