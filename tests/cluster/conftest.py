"""Clusters of several nodes, and small work for their jobs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fakes import photograph
from nodes import Network, Nodes, can_have_networks, started
from srgan_ray.data import images


@pytest.fixture(scope="module")
def neighbours() -> Iterator[Nodes]:
    """A head and two workers that share this machine's address."""
    with started(2, Nodes()) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def network() -> Network:
    """One for nodes with addresses of their own."""
    if not can_have_networks():
        pytest.skip("no network namespaces here: wanted root and iproute2")
    return Network()


@pytest.fixture(scope="module")
def networked(network: Network) -> Iterator[Nodes]:
    """A head and two workers, each in a network namespace."""
    with started(2, Nodes(network)) as nodes:
        yield nodes


@pytest.fixture
def nodes(networked: Nodes) -> Iterator[Nodes]:
    """The same with two workers again, whatever became of them in the test before."""
    networked.restore(2)
    yield networked
    networked.stop_jobs()


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """What all nodes share."""
    return tmp_path


@pytest.fixture(scope="session")
def many_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 40 parts of a megabyte."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(160):
        noise = np.random.default_rng(number).integers(-20, 20, (300, 400, 3))
        noisy = np.clip(photograph(number, 300, 400) + noise, 0, 255).astype(np.uint8)
        (folder / f"{number}.png").write_bytes(images.encode(noisy, "png"))
    return folder
