"""A small generator file, and the API around it as a client meets it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from srgan_ray.models.artifact import Card, save_generator
from srgan_ray.models.generator import GeneratorConfig, build_generator
from srgan_ray.serving.api import build_api
from srgan_ray.serving.handler import Handler, ModelConfig
from srgan_ray.serving.protocol import Limits


def write_generator(path: Path, seed: int, name: str) -> str:
    generator = build_generator(GeneratorConfig(1, 8), seed)
    sizes = {"num_blocks": 1, "num_features": 8}
    card = Card(name, sizes, "opencv_cubic", "train", 5, "random, seed 0", {}, {}, "hash")
    save_generator(path, generator.state_dict(), card)
    return str(path)


@pytest.fixture(scope="session")
def generator_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained generator."""
    return write_generator(tmp_path_factory.mktemp("generator") / "sharp.safetensors", 0, "sharp")


@pytest.fixture(scope="session")
def other_generator_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another one of the same size."""
    return write_generator(tmp_path_factory.mktemp("generator") / "faithful.safetensors", 1, "faithful")


@pytest.fixture
def client(generator_file: str) -> Iterator[TestClient]:
    """The API with tight limits."""
    limits = Limits(max_mb=0.2, max_megapixels=0.01, max_waiting=2, time_limit_s=5)
    with TestClient(build_api(Handler(ModelConfig(generator_file)), limits), raise_server_exceptions=False) as client:
        yield client
