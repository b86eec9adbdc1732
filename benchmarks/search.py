"""What a search costs over its trials: `tune` over the same runs done by hand, as many at a time.

By hand: each run in a process of its own, without Ray (`training.plain`), measured as a trial is, with as many threads.
A search: from a Ray that has started to the last trial's end; the search's folder and report are in neither. The two
alternate, since machines are noisy.

    srgan-ray prepare SOURCE --out SHARDS --limit 120
    python benchmarks/search.py --data SHARDS

prints the medians of both in seconds, and the search's over the other (wanted at most 1.15).
"""

import dataclasses
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import tyro

from srgan_ray.data.crops import CropConfig
from srgan_ray.evaluation.judge import Judge
from srgan_ray.models.artifact import PSNR, load_generator
from srgan_ray.models.memory import WORKER_ENVIRONMENT
from srgan_ray.models.perceptual import RANDOM
from srgan_ray.on_ray.session import ray_session
from srgan_ray.search.config import RANDOM as DRAWN
from srgan_ray.search.config import TuneConfig
from srgan_ray.search.search import Search, training_of
from srgan_ray.search.trials import Trial
from srgan_ray.training import plain
from srgan_ray.training.loop import LoopConfig


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """A search over its trials done by hand."""

    data: str
    """Shard set."""
    trials: int = 6
    """Trials of each side."""
    steps: int = 30
    """Steps of a trial."""
    concurrent: int = 2
    """Trials at a time, with one thread each."""
    rounds: int = 2
    """Alternations; medians are taken over them."""


def main(config: BenchmarkConfig) -> None:
    """Measure both and print one JSON object."""
    by_hand, searched = [], []
    with ray_session(WORKER_ENVIRONMENT):
        for _ in range(config.rounds):
            with tempfile.TemporaryDirectory() as out:
                seconds, trials = _search(_as_search(config, str(Path(out) / "search")))
                searched.append(seconds)
                by_hand.append(_by_hand(_as_search(config, str(Path(out) / "by_hand")), trials))
            print(f"by hand {by_hand[-1]:.1f} s, searched {searched[-1]:.1f} s", file=sys.stderr)
    hand, search = statistics.median(by_hand), statistics.median(searched)
    print(json.dumps({**dataclasses.asdict(config), "by_hand_s": hand, "search_s": search, "ratio": search / hand}))


def _as_search(config: BenchmarkConfig, out: str) -> TuneConfig:
    return TuneConfig(
        data=config.data,
        out=out,
        init=PSNR,
        crops=CropConfig(batch_size=4),
        loop=LoopConfig(
            config.steps, evaluate_every=config.steps, checkpoint_every=config.steps, max_val_photographs=4
        ),
        vgg_weights=RANDOM,
        trials=config.trials,
        concurrent=config.concurrent,
        baseline_seeds=0,
        sampler=DRAWN,
    )


def _search(config: TuneConfig) -> tuple[float, list[Trial]]:
    from srgan_ray.on_ray import tuner

    search = Search(config)
    with search.opened():
        started = time.perf_counter()
        trials = tuner.search(search.config, search.space)
        return time.perf_counter() - started, trials


def _by_hand(config: TuneConfig, trials: list[Trial]) -> float:
    fresh = multiprocessing.get_context("spawn")
    started = time.perf_counter()
    with ProcessPoolExecutor(config.concurrent, mp_context=fresh, max_tasks_per_child=1) as executor:
        list(executor.map(_run, [config] * len(trials), trials))
    return time.perf_counter() - started


def _run(config: TuneConfig, trial: Trial) -> None:
    torch.set_num_threads(1)
    training = training_of(config, trial)
    plain.fit(training)
    generator, _ = load_generator(f"{training.out}/generator.safetensors")
    Judge(config.data, config.crops.degradation, config.loop.max_val_photographs)(generator)


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
