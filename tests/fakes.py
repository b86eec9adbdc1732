"""Photographs, shard sets and generators that tests make up."""

import contextlib
import dataclasses
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
from fastapi import FastAPI

from srgan_ray.data import images
from srgan_ray.data.manifest import Manifest, Request, delete_parts, hash_data, write_manifest
from srgan_ray.data.shards import plan_shards, read_findings, write_part, write_shard
from srgan_ray.data.sources import list_photographs
from srgan_ray.data.storage import Folder
from srgan_ray.demo import free_port
from srgan_ray.evaluation.metrics import Measurement, Protocol
from srgan_ray.models.artifact import Card, save_generator
from srgan_ray.models.generator import GeneratorConfig, build_generator
from srgan_ray.search.trials import FINISHED, Trial

SMALL = GeneratorConfig(num_blocks=1, num_features=8)


@contextlib.contextmanager
def torch_threads(num: int) -> Iterator[None]:
    """As if torch had so many cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    yield
    torch.set_num_threads(before)


def photograph(seed: int, height: int = 120, width: int = 152) -> np.ndarray:
    """Smooth colour fields with edges, `uint8` RGB (height, width, 3): there is something to learn in it."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = [np.sin(x * a + y * b + c) for a, b, c in random.uniform(-0.4, 0.4, (3, 3))]
    stripes = np.sign(np.sin(x * random.uniform(0.1, 0.5) + y * random.uniform(0.1, 0.5)))
    return np.clip(128 + 50 * np.stack(waves, -1) + 40 * stripes[..., None], 0, 255).astype(np.uint8)


def write_generator(path: Path, seed: int, name: str, config: GeneratorConfig = SMALL) -> str:
    generator = build_generator(config, seed)
    card = Card(name, dataclasses.asdict(config), "opencv_cubic", "train", 5, "random, seed 0", {}, {}, "hash")
    save_generator(path, generator.state_dict(), card)
    return str(path)


def finished_trial(
    number: int, psnr: float, perception: float, settings: dict | None = None, **figures: float
) -> Trial:
    """A healthy one, unless figures say otherwise."""
    values = {"colour_drift": 0.1, "checkerboard": 0.1, "consistency_db": 40.0, **figures}
    of = {"psnr": psnr, "perception": perception, **values}
    metrics = {"perception": "swd"}
    protocols = {name: Protocol(metrics.get(name, name), "y", "mixed", "data") for name in of}
    measured = {name: Measurement(value, protocols[name]) for name, value in of.items()}
    return Trial(number, settings or {"learning_rate": 1e-4}, FINISHED, 10, 1.0, measured)


@contextlib.contextmanager
def served(api: FastAPI) -> Iterator[str]:
    """The URL of an API that listens on a real socket."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def make_shards(location: Path | str, request: Request) -> Manifest:
    """A finished shard set, made without Ray from one part."""
    folder = Folder(location)
    write_part(folder, "parts/0.parquet", list_photographs(request.source, request.limit, request.seed), request)
    findings = read_findings(folder, "parts/0.parquet")
    plan = plan_shards([findings], request)
    shards = tuple(write_shard(folder, shard, ["parts/0.parquet"], request) for shard in plan.shards)
    manifest = Manifest(request, {"found": len(findings)}, shards, hash_data(request, plan.splits), {})
    write_manifest(folder, manifest)
    delete_parts(folder)
    return manifest


def make_small_shards(
    location: Path, number: int, size: tuple[int, int], rows_per_shard: int, rows_per_group: int
) -> Manifest:
    """Shards of so many photographs, a few of them for validation; HR is up to 3 pixels larger than the crop box."""
    height, width = size
    with tempfile.TemporaryDirectory() as photographs, pytest.MonkeyPatch.context() as patch:
        for seed in range(number):
            image = photograph(seed, height + seed % 4, width + seed % 3)
            (Path(photographs) / f"{seed}.png").write_bytes(images.encode(image, "png"))
        patch.setattr("srgan_ray.data.shards.ROWS_PER_SHARD", rows_per_shard)
        patch.setattr("srgan_ray.data.shards.ROWS_PER_GROUP", rows_per_group)
        return make_shards(location, Request(photographs, val_fraction=2 / number, min_side_px=48))
