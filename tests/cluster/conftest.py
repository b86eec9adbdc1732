"""Clusters of several nodes, and small work for their jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes import Nodes, can_have_networks, started


@pytest.fixture(scope="module")
def neighbours() -> Iterator[Nodes]:
    """A head and two workers that share this machine's address."""
    with started(2, networks=False) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def network() -> Iterator[Nodes]:
    """A head and two workers, each in a network namespace with an address of its own."""
    if not can_have_networks():
        pytest.skip("no network namespaces here: wanted root and iproute2")
    with started(2, networks=True) as nodes:
        yield nodes


@pytest.fixture
def nodes(network: Nodes) -> Iterator[Nodes]:
    """The network with two workers again, whatever became of them in the test before."""
    network.restore(2)
    yield network
    network.stop_jobs()


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """What all nodes share."""
    return tmp_path
