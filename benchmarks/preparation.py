"""Preparation with Ray Data beside the same per-image function in a plain process pool, and its peak memory.

    python benchmarks/preparation.py SOURCE --memory-at 1500 3000 6000

Both sides read, decode, examine, degrade and encode every photograph on the same CPUs, with their processes started
and warm; only `prepare` also writes the shards, the report and the manifest. The whole command, Ray's start included,
is timed as well. Memory is the sum over the process tree of each process's proportional share (PSS), sampled.
"""

import dataclasses
import functools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.pool import Pool
from pathlib import Path

import psutil
import tyro

from srgan_ray.data.manifest import Request
from srgan_ray.data.shards import examine
from srgan_ray.data.sources import Photograph, list_photographs
from srgan_ray.data.storage import Folder
from srgan_ray.on_ray.session import ray_session

SAMPLE_S = 0.1
NUM_WARM_UP = 256


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Preparation beside a plain process pool."""

    source: tyro.conf.Positional[str]
    """As of `srgan-ray prepare`."""
    limit: int = 0
    """So many photographs; 0 takes all."""
    rounds: int = 3
    """Alternations of pool and `prepare`, and runs of the whole command."""
    memory_at: tuple[int, ...] = ()
    """Also measure the peak memory at these numbers of photographs."""


def main(config: BenchmarkConfig) -> None:
    """Print both rates and their ratio, then the memory, then all of it as JSON."""
    request = Request(config.source, config.limit)
    photographs = list_photographs(request.source, request.limit, request.seed)
    figures = {"photographs": len(photographs), **_compare(photographs, request, config.rounds)}
    commands = [_time_command(config.source, config.limit) for _ in range(config.rounds)]
    figures["command_s"] = round(statistics.median(commands), 2)
    print(f"whole command, start included: {figures['command_s']} s")
    for number in config.memory_at:
        figures[f"peak_mb_at_{number}"] = round(_peak_memory_mb(config.source, number))
        print(f"peak memory at {number} photographs: {figures[f'peak_mb_at_{number}']} MB")
    print(json.dumps(figures))


def _compare(photographs: list[Photograph], request: Request, rounds: int) -> dict[str, float]:
    """Photographs per second of the pool and of `prepare`, run in turn, and the median of the ratios."""
    num_cpus = len(os.sched_getaffinity(0))
    pool_rates, ray_rates = [], []
    with multiprocessing.get_context("spawn").Pool(num_cpus) as pool, ray_session():
        _rate_of_ray(photographs[:NUM_WARM_UP], request)
        _rate_of_pool(photographs[:NUM_WARM_UP], request, pool)
        for number in range(rounds):
            pool_rates.append(_rate_of_pool(photographs, request, pool))
            ray_rates.append(_rate_of_ray(photographs, request))
            print(
                f"round {number + 1}: pool {pool_rates[-1]:.1f}/s, prepare {ray_rates[-1]:.1f}/s, "
                f"ratio {ray_rates[-1] / pool_rates[-1]:.3f}"
            )
    ratio = statistics.median(ours / theirs for ours, theirs in zip(ray_rates, pool_rates))
    print(f"median ratio on {num_cpus} CPUs: {ratio:.3f}")
    return {
        "cpus": num_cpus,
        "pool_per_s": round(statistics.median(pool_rates), 1),
        "prepare_per_s": round(statistics.median(ray_rates), 1),
        "ratio": round(ratio, 3),
    }


def _rate_of_pool(photographs: list[Photograph], request: Request, pool: Pool) -> float:
    started = time.perf_counter()
    for _ in pool.imap_unordered(functools.partial(_examine, request), photographs, chunksize=16):
        pass
    return len(photographs) / (time.perf_counter() - started)


def _examine(request: Request, photograph: Photograph) -> int:
    _, row = examine(photograph, photograph.read(), request)
    return sum(map(len, row.values()))


def _rate_of_ray(photographs: list[Photograph], request: Request) -> float:
    from srgan_ray.on_ray import ingest

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        ingest.prepare(photographs, request, Folder(folder))
        return len(photographs) / (time.perf_counter() - started)


def _command(source: str, limit: int, out: str) -> list[str]:
    return [sys.executable, "-m", "srgan_ray", "prepare", source, "--limit", str(limit), "--out", out]


def _time_command(source: str, limit: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(_command(source, limit, str(Path(folder) / "shards")), check=True, capture_output=True)
        return time.perf_counter() - started


def _peak_memory_mb(source: str, limit: int) -> float:
    peak = 0.0
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            _command(source, limit, str(Path(folder) / "shards")), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            peak = max(peak, _tree_memory_mb(process.pid))
            time.sleep(SAMPLE_S)
    if process.returncode:
        raise RuntimeError(f"prepare ended with exit code {process.returncode}")
    return peak


def _tree_memory_mb(pid: int) -> float:
    total = 0
    try:
        for process in (root := psutil.Process(pid), *root.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.NoSuchProcess:
        pass  # one ended while it was looked at; the next sample has the others
    return total / 2**20


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
