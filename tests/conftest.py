"""What the tests share: tiny photographs, a shard set, one Ray for the session, and the benchmark images."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fakes import make_shards, photograph, write_generator
from srgan_ray.data import images
from srgan_ray.data.manifest import Request
from srgan_ray.on_ray.session import ray_session, set_embedded_environment

set_embedded_environment()  # ray reads its environment when it is first imported: here while tests are collected
for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # the tests' Ray is their own
    os.environ.pop(name, None)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported: its kernels run on the CPU too


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
    make_shards(folder, Request(str(photographs), val_fraction=0.5, min_side_px=48))
    return folder


@pytest.fixture(scope="session")
def real_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set of scikit-image's photographs, on which the released generators are healthy."""
    folder = tmp_path_factory.mktemp("real_shards")
    make_shards(folder, Request("samples", val_fraction=0.2))
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
def bucket() -> Iterator[str]:
    """The URI of an empty bucket on a local S3."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="dogs")
        yield "s3://dogs"
    server.stop()


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """Set5, Set14 and BSD100 with MATLAB's LR, from the folder that SRGAN_RAY_BENCHMARKS names, or ../shared/data."""
    default = Path(__file__).parents[2] / "shared" / "data" / "benchmarks"
    folder = Path(os.environ.get("SRGAN_RAY_BENCHMARKS", default))
    if not folder.is_dir():
        pytest.skip(f"no benchmark images at {folder}; set SRGAN_RAY_BENCHMARKS to their folder")
    return folder
