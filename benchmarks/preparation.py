"""Preparation with Ray Data beside the same per-image function in a plain process pool, and its peak memory.

    python benchmarks/preparation.py SOURCE --memory-at 1500 3000 6000

All sides read, decode, examine, degrade and encode every photograph on the same CPUs, with their processes started and
warm. The first pool throws the rows away, the second leaves them in Parquet files; only `prepare` also drops
duplicates, splits, shuffles the rows into shards, and writes report and manifest. The whole command, Ray's start
included, is timed as well. Memory is the sum over the process tree of each process's proportional share (PSS), sampled.
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
from collections.abc import Callable
from multiprocessing.pool import Pool
from pathlib import Path

import psutil
import tyro

from srgan_ray.data.manifest import Request
from srgan_ray.data.shards import ROWS_PER_SHARD, examine, write_part
from srgan_ray.data.sources import Photograph, list_photographs
from srgan_ray.data.storage import Folder
from srgan_ray.on_ray.session import ray_session

SAMPLE_S = 0.1
NUM_WARM_UP = 256


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Preparation beside plain process pools."""

    source: tyro.conf.Positional[str]
    """As of `srgan-ray prepare`."""
    limit: int = 0
    """So many photographs; 0 takes all."""
    rounds: int = 3
    """Alternations of the pools and `prepare`, and runs of the whole command."""
    memory_at: tuple[int, ...] = ()
    """Also measure the peak memory at these numbers of photographs."""


def main(config: BenchmarkConfig) -> None:
    """Print the rates and ratios, then the memory, then all of it as JSON."""
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
    """Photographs per second of the pools and of `prepare`, run in turn, and the medians of the ratios."""
    num_cpus = len(os.sched_getaffinity(0))
    with multiprocessing.get_context("spawn").Pool(num_cpus) as pool, ray_session():
        sides: dict[str, Callable[[list[Photograph], Request], None]] = {
            "pool": functools.partial(_run_pool, pool),
            "writing_pool": functools.partial(_run_writing_pool, pool),
            "prepare": _run_prepare,
        }
        for run in sides.values():
            run(photographs[:NUM_WARM_UP], request)
        found = []
        for number in range(rounds):
            found.append({name: _rate(run, photographs, request) for name, run in sides.items()})
            print(f"round {number + 1}: " + ", ".join(f"{name} {rate:.1f}/s" for name, rate in found[-1].items()))
    figures = {f"{name}_per_s": round(statistics.median(rates[name] for rates in found), 1) for name in sides}
    for name in ("pool", "writing_pool"):
        ratio = statistics.median(rates["prepare"] / rates[name] for rates in found)
        print(f"median ratio to {name} on {num_cpus} CPUs: {ratio:.3f}")
        figures[f"ratio_to_{name}"] = round(ratio, 3)
    return {"cpus": num_cpus, **figures}


def _rate(run: Callable[[list[Photograph], Request], None], photographs: list[Photograph], request: Request) -> float:
    started = time.perf_counter()
    run(photographs, request)
    return len(photographs) / (time.perf_counter() - started)


def _run_pool(pool: Pool, photographs: list[Photograph], request: Request) -> None:
    for _ in pool.imap_unordered(functools.partial(_examine, request), photographs, chunksize=16):
        pass


def _run_writing_pool(pool: Pool, photographs: list[Photograph], request: Request) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write = functools.partial(_write, Folder(folder), request)
        chunks = [photographs[start : start + ROWS_PER_SHARD] for start in range(0, len(photographs), ROWS_PER_SHARD)]
        for _ in pool.imap_unordered(write, enumerate(chunks)):
            pass


def _write(folder: Folder, request: Request, chunk: tuple[int, list[Photograph]]) -> int:
    return write_part(folder, f"{chunk[0]:06d}.parquet", chunk[1], request)


def _examine(request: Request, photograph: Photograph) -> int:
    _, row = examine(photograph, photograph.read(), request)
    return sum(map(len, row.values()))


def _run_prepare(photographs: list[Photograph], request: Request) -> None:
    from srgan_ray.on_ray import ingest

    with tempfile.TemporaryDirectory() as folder:
        ingest.prepare(photographs, request, Folder(folder))


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
