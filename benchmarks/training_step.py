"""What a training step costs inside the real job, over what it costs bare.

Bare: `pretrain_step` and `adversarial_step` of the paper's networks (16 blocks of 64 features, batch 16, crops of 96)
on tensors that are there already, in this process. Real: the same steps in `srgan-ray pretrain` and `srgan-ray train`
under Ray, fed from shards, with the averaging of the weights and the progress report; the time of its steps is taken
from the run's own record, without its start, validations and checkpoints. The two alternate, since machines are noisy.

    srgan-ray prepare SOURCE --out SHARDS --limit 120
    python benchmarks/training_step.py --data SHARDS

prints, for each stage, the medians of both in seconds a step, and the steps/s of the real job over the bare ones.
"""

import dataclasses
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro

from srgan_ray.config import PretrainConfig, RunConfig, TrainConfig
from srgan_ray.data.feed import Feed
from srgan_ray.data.shard_set import ShardSet
from srgan_ray.models.perceptual import RANDOM
from srgan_ray.models.precision import best_device, resolve_precision
from srgan_ray.on_ray.session import ray_session
from srgan_ray.training import plain
from srgan_ray.training.loop import LoopConfig
from srgan_ray.training.stages import build_stage, single_worker


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Steps inside the real job over bare steps."""

    data: str
    """Shard set."""
    rounds: int = 2
    """Alternations of bare and real."""
    pretrain_steps: int = 12
    """Steps in a round of the first stage."""
    train_steps: int = 4
    """Steps in a round of the second stage."""


def main(config: BenchmarkConfig) -> None:
    """Measure both stages and print one JSON object."""
    device = best_device()
    results = {"precision": resolve_precision("auto", device), "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as scratch, ray_session():
        once = LoopConfig(steps=1, max_val_photographs=1)
        init = PretrainConfig(config.data, f"{scratch}/init", loop=once)
        plain.fit(init)
        train = TrainConfig(config.data, "", loop=once, init=init.out, vgg_weights=RANDOM)
        stages = {"pretrain": (init, config.pretrain_steps), "train": (train, config.train_steps)}
        for name, (stage, steps) in stages.items():
            rounds = [_measure(stage, steps, f"{scratch}/{name}_{number}") for number in range(config.rounds)]
            bare, real = (statistics.median(seconds) for seconds in zip(*rounds))
            results[name] = {"bare_s": bare, "real_s": real, "real_over_bare": bare / real, "rounds": rounds}
            ratio = f"bare {bare:.3f} s, real {real:.3f} s, real / bare {bare / real:.3f} steps/s"
            print(f"{name}: {ratio}", file=sys.stderr)
    print(json.dumps(results))


def _measure(config: RunConfig, steps: int, out: str) -> tuple[float, float]:
    return _bare(config, steps), _real(config, steps, out)


def _bare(config: RunConfig, steps: int) -> float:
    stage = build_stage(config, single_worker())
    batch = Feed(config.data, config.crops).batch(1)
    return _mean_time(lambda: stage.take_step(batch), steps)


def _real(config: RunConfig, steps: int, out: str) -> float:
    """Seconds a step between the first validation, before which every photograph is decoded once, and the last."""
    from srgan_ray.on_ray import trainer

    crops = len(ShardSet(config.data, "train")) * config.crops.crops_per_photograph
    warm_up = max(steps, math.ceil(crops / config.crops.batch_size))
    loop = dataclasses.replace(config.loop, steps=warm_up + steps, evaluate_every=warm_up, checkpoint_every=10**9)
    trainer.fit(dataclasses.replace(config, out=out, loop=loop))
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return float(rows[-1]["seconds_per_step"])


def _mean_time(step: Callable[[], object], num: int) -> float:
    for _ in range(2):
        step()
    _wait()
    started = time.perf_counter()
    for _ in range(num):
        step()
    _wait()
    return (time.perf_counter() - started) / num


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
