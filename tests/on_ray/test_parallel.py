"""What Ray Data makes of functions that fail and of processes that die."""

import os
import signal
from pathlib import Path

import pytest

from srgan_ray.errors import InputError

pytestmark = pytest.mark.ray


def deadly(marks: Path, mortal: dict[int, int]):
    """A builder of a function that leaves a mark for each try, and kills its process for so many tries of an item."""

    def build():
        def try_item(item: int) -> int:
            tries = len(list(marks.glob(f"{item}_*")))
            (marks / f"{item}_{tries}").touch()
            if tries < mortal.get(item, 0):
                os.kill(os.getpid(), signal.SIGKILL)
            return 10 * item

        return try_item

    return build


def test_the_death_of_actors_costs_only_what_they_die_of(ray_cluster: None, tmp_path: Path) -> None:
    from srgan_ray.on_ray.cluster import Pool
    from srgan_ray.on_ray.parallel import NUM_TRIES, map_in_pool

    results = dict(map_in_pool(deadly(tmp_path, {1: 1, 2: 100}), range(6), Pool(2, 1, 0)))
    assert results == {0: 0, 1: 10, 3: 30, 4: 40, 5: 50}
    assert [len(list(tmp_path.glob(f"{item}_*"))) for item in range(6)] == [1, 2, NUM_TRIES, 1, 1, 1]


def test_an_input_error_in_an_actor_stops_the_job(ray_cluster: None) -> None:
    from srgan_ray.on_ray.cluster import Pool
    from srgan_ray.on_ray.parallel import map_in_pool

    def build():
        def refuse(item: int) -> None:
            raise InputError(f"{item} is too much")

        return refuse

    with pytest.raises(InputError, match=r"^0 is too much$"):
        list(map_in_pool(build, [0], Pool(1, 1, 0)))


def test_a_pool_leaves_tasks_strict(ray_cluster: None) -> None:
    """What a pool may lose, `prepare` may not."""
    from ray.exceptions import RayTaskError

    from srgan_ray.on_ray.cluster import Pool
    from srgan_ray.on_ray.parallel import map_in_pool, map_in_tasks

    def divide(item: int) -> float:
        return 1 / item

    assert dict(map_in_pool(lambda: divide, [0, 1], Pool(1, 1, 0))) == {1: 1.0}
    with pytest.raises(RayTaskError, match="division by zero"):
        list(map_in_tasks(divide, [0, 1], 2))


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([{"CPU": 2.0}], (2, 1, 0)),
        ([{"CPU": 8.0}, {"CPU": 4.0}, {}], (12, 1, 0)),
        ([{"CPU": 16.0, "GPU": 1.0}], (1, 16, 1)),
        ([{"CPU": 64.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 32.0, "GPU": 8.0}], (10, 4, 1)),
    ],
)
def test_a_pool_fills_the_cluster(nodes: list[dict[str, float]], expected: tuple[int, int, int], monkeypatch) -> None:
    from srgan_ray.on_ray import cluster

    monkeypatch.setattr(cluster, "_nodes", lambda: nodes)
    assert cluster.find_pool() == expected


CPU_NODE, GPU_NODE, HEAD = {"CPU": 16.0}, {"CPU": 8.0, "GPU": 2.0}, {"memory": 1.0}


@pytest.mark.parametrize(
    ("nodes", "counts", "expected"),
    [
        ([HEAD, {"CPU": 2.0}], range(1, 2), (2, False)),
        ([{"CPU": 2.0}, {"CPU": 3.0}], range(2, 3), (2, False)),
        ([{"CPU": 8.0}, {"CPU": 4.0}], range(1, 3), (4, False)),
        ([CPU_NODE, GPU_NODE], range(1, 2), (8, True)),
        ([CPU_NODE, GPU_NODE, GPU_NODE], range(4, 5), (4, True)),
        ([{"CPU": 48.0, "GPU": 4.0}] * 2, range(1, 9), (12, True)),  # as many workers as GPUs, if need be
        ([CPU_NODE, GPU_NODE, {"CPU": 1.0, "GPU": 2.0}], range(1, 4), (1, True)),
    ],
)
def test_workers_share_the_nodes_and_are_on_gpus_where_there_are_any(
    nodes: list[dict[str, float]], counts: range, expected: tuple[int, bool], monkeypatch
) -> None:
    from srgan_ray.on_ray import cluster

    monkeypatch.setattr(cluster, "_nodes", lambda: nodes)
    assert cluster.share_for(counts) == expected


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([HEAD], "the cluster has 0 CPUs"),
        ([HEAD, {"CPU": 2.0}], "--num-workers 3; the cluster has 2 CPUs"),
        ([CPU_NODE, GPU_NODE], "--num-workers 3; the cluster has 2 GPUs"),
    ],
)
def test_workers_without_a_place_are_refused(nodes: list[dict[str, float]], message: str, monkeypatch) -> None:
    """Not put on CPUs without a word where there are GPUs."""
    from srgan_ray.on_ray import cluster

    monkeypatch.setattr(cluster, "_nodes", lambda: nodes)
    with pytest.raises(InputError, match=message):
        cluster.share_for(range(3, 4))


@pytest.mark.parametrize(
    ("nodes", "concurrent", "num_workers", "expected"),
    [
        ([{"CPU": 2.0}], 0, 1, (1, 0, 2)),
        ([{"CPU": 8.0, "GPU": 1.0}], 0, 1, (8, 1, 1)),
        ([{"CPU": 8.0, "GPU": 1.0}], 4, 1, (2, 1 / 4, 4)),
        ([GPU_NODE], 3, 1, (2, 1 / 2, 3)),  # two thirds of a GPU each would leave the third no place
        ([GPU_NODE, GPU_NODE], 0, 2, (4, 1, 2)),
        ([GPU_NODE, GPU_NODE], 3, 1, (4, 1, 3)),  # of 5 CPUs one alone would fit on each node
        ([{"CPU": 4.0, "GPU": 1.0}, {"CPU": 16.0, "GPU": 1.0}], 1, 2, (4, 1, 1)),
        ([{"CPU": 2.0}, {"CPU": 6.0}], 1, 2, (3, 0, 1)),
        ([{"CPU": 16.0, "GPU": 1.0}] * 2, 3, 1, (8, 1 / 2, 3)),
        ([{"CPU": 1.0, "GPU": 1.0}, {"CPU": 9.0, "GPU": 1.0}], 4, 1, (1, 1 / 3, 4)),
        ([{"CPU": 49.0, "GPU": 1.0}], 49, 1, (1, 1 / 49, 49)),
        ([CPU_NODE, {"CPU": 8.0, "GPU": 1.0}], 0, 1, (8, 1, 1)),  # 16 CPUs and a GPU would fit nowhere
        ([{"CPU": 2.0}, {"GPU": 1.0}], 0, 1, (1, 0, 2)),
    ],
)
def test_trials_share_cpus_and_gpus(
    nodes: list[dict[str, float]], concurrent: int, num_workers: int, expected: tuple[int, float, int], monkeypatch
) -> None:
    from srgan_ray.on_ray import cluster

    monkeypatch.setattr(cluster, "_nodes", lambda: nodes)
    assert cluster.share_for_trials(concurrent, num_workers, num_left=100) == expected


@pytest.mark.parametrize(
    ("nodes", "num_left", "expected"),
    [
        ([CPU_NODE], 3, (5, 0, 3)),
        ([GPU_NODE, GPU_NODE], 2, (8, 1, 2)),
        ([CPU_NODE], 30, (1, 0, 16)),
    ],
)
def test_the_trials_that_are_left_share_all_there_is(
    nodes: list[dict[str, float]], num_left: int, expected: tuple[int, float, int], monkeypatch
) -> None:
    from srgan_ray.on_ray import cluster

    monkeypatch.setattr(cluster, "_nodes", lambda: nodes)
    assert cluster.share_for_trials(0, 1, num_left) == expected


def test_trials_whose_workers_have_no_gpus_are_refused(monkeypatch) -> None:
    from srgan_ray.on_ray import cluster

    monkeypatch.setattr(cluster, "_nodes", lambda: [GPU_NODE])
    with pytest.raises(InputError, match="--concurrent 2 with --num-workers 2; the cluster has 2 GPUs: wanted one"):
        cluster.share_for_trials(2, 2, num_left=2)
    uneven = [{"CPU": 1.0, "GPU": 3.0}, {"CPU": 5.0, "GPU": 1.0}]  # enough of both, but not together
    monkeypatch.setattr(cluster, "_nodes", lambda: uneven)
    with pytest.raises(InputError, match="GPUs of the cluster's nodes, 1 and 3, 5 and 1, have no room for so many"):
        cluster.share_for_trials(2, 2, num_left=2)
