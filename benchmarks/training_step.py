"""What a training step costs inside the real job, over what it costs bare, and what several workers add to it.

Bare: `pretrain_step` and `adversarial_step` of the paper's networks (16 blocks of 64 features, batch 16, crops of 96)
on tensors that are there already, in this process. Real: the same steps in `srgan-ray pretrain` and `srgan-ray train`
under Ray, fed from shards, with the averaging of the weights and the progress report; the time of its steps is taken
from the run's own record, without its start, validations and checkpoints. Shared: the real job again, its batches and
the machine shared out to several workers. The three alternate, since machines are noisy.

    srgan-ray prepare SOURCE --out SHARDS --limit 120
    python benchmarks/training_step.py --data SHARDS

prints, for each stage, the medians in seconds a step, and the steps/s of the real job over the bare ones (wanted at
least 0.97) and with several workers over one (0.9).
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
from typing import Any

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
    """Alternations of bare, real and shared."""
    pretrain_steps: int = 12
    """Steps in a round of the first stage."""
    train_steps: int = 4
    """Steps in a round of the second stage."""
    workers: int = 2
    """Workers that share the machine."""


def main(config: BenchmarkConfig) -> None:
    """Measure both stages and print one JSON object."""
    device = best_device()
    results: dict[str, Any] = {"precision": resolve_precision("auto", device), "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as scratch, ray_session():
        once = LoopConfig(steps=1, max_val_photographs=1)
        init = PretrainConfig(config.data, f"{scratch}/init", loop=once)
        plain.fit(init)
        train = TrainConfig(config.data, "", loop=once, init=init.out, vgg_weights=RANDOM)
        stages = {"pretrain": (init, config.pretrain_steps), "train": (train, config.train_steps)}
        for name, (stage, steps) in stages.items():
            shared_stage = dataclasses.replace(stage, num_workers=config.workers)
            rounds = [
                (
                    _bare(stage, steps),
                    _real(stage, steps, f"{scratch}/{name}_{number}"),
                    _real(shared_stage, steps, f"{scratch}/{name}_{number}_shared"),
                )
                for number in range(config.rounds)
            ]
            results[name] = _summarize(rounds)
            print(f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in results[name].items()), file=sys.stderr)
    print(json.dumps(results))


def _summarize(rounds: list[tuple[float, float, float]]) -> dict[str, float]:
    bare, real, shared = (statistics.median(seconds) for seconds in zip(*rounds))
    return {
        "bare_s": bare,
        "real_s": real,
        "shared_s": shared,
        "real_over_bare": bare / real,
        "shared_over_real": real / shared,
    }


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
