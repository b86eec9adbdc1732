"""Clusters of several nodes, and small work for their jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes import Network, Nodes, can_have_networks, started


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
