"""What the tests share: tiny photographs, a shard set, one Ray for the session, and the benchmark images."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import photograph, write_generator
from srgan_ray.data import images
from srgan_ray.data.manifest import Manifest, Request, hash_data, split_ids, write_manifest
from srgan_ray.data.shards import inspect, write_shard
from srgan_ray.data.sources import list_photographs
from srgan_ray.on_ray.session import ray_session

for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # the tests' Ray is their own
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 8 photographs as PNG files in Stanford Dogs' layout."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(8):
        path = folder / f"n0000000{number % 2}-breed_{number % 2}" / f"photo_{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(images.encode(photograph(number), "png"))
    return folder


@pytest.fixture(scope="session")
def shards(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished shard set of `photographs`, made without Ray: 4 train and 4 val."""
    folder = tmp_path_factory.mktemp("shards")
    request = Request(str(photographs), val_fraction=0.5, min_side_px=48)
    findings = [inspect(file, request.min_side_px) for file in list_photographs(request.source, 0, 0)]
    splits = split_ids([finding.id for finding in findings], request.seed, request.val_fraction)
    entries = tuple(
        write_shard(
            folder,
            f"{split}/00000.parquet",
            split,
            [finding for finding in findings if splits[finding.id] == split],
            request.degradations,
        )
        for split in ("train", "val")
    )
    write_manifest(folder, Manifest(request, {"found": 8}, entries, hash_data(request, splits), {}))
    return folder


@pytest.fixture(scope="session")
def generator_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained generator."""
    return write_generator(tmp_path_factory.mktemp("generator") / "sharp.safetensors", 0, "sharp")


@pytest.fixture(scope="session")
def other_generator_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another one of the same size."""
    return write_generator(tmp_path_factory.mktemp("generator") / "faithful.safetensors", 1, "faithful")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The one Ray of the test session."""
    with ray_session():
        yield


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """Set5, Set14 and BSD100 with MATLAB's LR, from the folder that SRGAN_RAY_BENCHMARKS names, or ../shared/data."""
    default = Path(__file__).parents[2] / "shared" / "data" / "benchmarks"
    folder = Path(os.environ.get("SRGAN_RAY_BENCHMARKS", default))
    if not folder.is_dir():
        pytest.skip(f"no benchmark images at {folder}; set SRGAN_RAY_BENCHMARKS to their folder")
    return folder
