"""The API as a client meets it."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from srgan_ray.serving.api import build_api
from srgan_ray.serving.handler import Handler, ModelConfig
from srgan_ray.serving.protocol import Limits


@pytest.fixture
def client(generator_file: str) -> Iterator[TestClient]:
    """The API with tight limits."""
    limits = Limits(max_mb=0.2, max_megapixels=0.01, max_waiting=2, time_limit_s=5)
    with TestClient(build_api(Handler(ModelConfig(generator_file)), limits), raise_server_exceptions=False) as client:
        yield client
