"""What the connected cluster has to give."""

import math
import sys
from typing import NamedTuple

import ray

from srgan_ray.errors import InputError


def largest_node(resource: str = "CPU") -> dict[str, float]:
    """The resources of the node with the most CPUs, or GPUs."""
    return max(_nodes(), key=lambda node: node.get(resource, 0))


def total_cpus() -> int:
    """Of all nodes together. Raises InputError where there are none: nothing would ever begin."""
    num_cpus = sum(int(node.get("CPU", 0)) for node in _nodes())
    if not num_cpus:
        raise InputError("the cluster has 0 CPUs; wanted at least one: add a node with CPUs (ray start --num-cpus)")
    return num_cpus


def metrics_url() -> str:
    """Where Prometheus finds the metrics of the node that this process runs on."""
    own = ray.get_runtime_context().get_node_id()
    [node] = [node for node in ray.nodes() if node["NodeID"] == own]
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def places_for(num_cpus: int, num_gpus: float) -> int:
    """How many actors of so many CPUs, at least one, and GPUs fit on the nodes, each on one."""
    return sum(_places(node, num_cpus, num_gpus) for node in _nodes())


def share_for(worker_counts: range) -> tuple[int, bool]:
    """The CPUs for each worker, and whether each gets a GPU, as it does where there are any.

    For one number of workers as many CPUs as all of them can have; where it may change with the nodes, all those of
    the smallest node that has any, or its share for each of its GPUs. Raises InputError where there are not enough
    CPUs, or GPUs, for one each.
    """
    least, num_cpus = worker_counts[0], total_cpus()
    num_gpus = sum(_places(node) for node in _nodes() if node.get("GPU"))
    nodes = [node for node in _nodes() if bool(node.get("GPU")) == bool(num_gpus) and node.get("CPU")]
    cpus = [max(1, int(node["CPU"]) // max(1, int(node.get("GPU", 0)))) for node in nodes]
    share = _largest_share(nodes, None, least)
    if not share:
        there = f"{num_gpus} GPUs with a CPU each" if num_gpus else f"{num_cpus} CPUs"
        raise InputError(f"--num-workers {least}; the cluster has {there}: wanted at most one worker for each")
    return share if len(worker_counts) == 1 else min([share, *cpus]), bool(num_gpus)


def _places(node: dict[str, float], num_cpus: int = 1, num_gpus: float | None = None) -> int:
    """Workers of so many CPUs and GPUs that fit on a node; None: of one GPU on a node that has any."""
    gpus = int(node.get("GPU", 0))
    each = min(gpus, 1) if num_gpus is None else num_gpus
    return min(int(node.get("CPU", 0)) // num_cpus, int(gpus / each + 1e-6) if each else sys.maxsize)


class TrialShare(NamedTuple):
    """What each trial of a search gets, and how many run at a time."""

    num_cpus: int
    num_gpus: float
    num_trials: int


def share_for_trials(concurrent: int, num_workers: int, num_left: int) -> TrialShare:
    """For trials of so many workers, `concurrent` at a time; 0: as many as GPUs, or else CPUs, suffice for, but no more
    than are left.

    Where there are GPUs, nodes without any are left out. Trials of one worker share a GPU where there are more of them
    than GPUs. Raises InputError where there are not enough CPUs, or GPUs for workers that get a whole one each.
    """
    total_cpus()  # refuses where there are none
    with_cpu = [node for node in _nodes() if _places(node)]
    nodes = [node for node in with_cpu if node.get("GPU")] or with_cpu
    num_cpus, num_gpus = (sum(int(node.get(resource, 0)) for node in nodes) for resource in ("CPU", "GPU"))
    num_trials = concurrent or max(1, min(sum(map(_places, nodes)) // num_workers, num_left))
    if num_trials * num_workers > num_cpus:
        where = " on nodes with GPUs" if num_gpus else ""
        raise InputError(
            f"--concurrent {num_trials} with --num-workers {num_workers}; the cluster has {num_cpus} CPUs{where}: "
            "wanted one for each worker"
        )
    if num_workers > 1 and num_gpus and num_trials * num_workers > num_gpus:
        raise InputError(
            f"--concurrent {num_trials} with --num-workers {num_workers}; the cluster has {num_gpus} GPUs: "
            "wanted one for each worker"
        )
    most_on_a_gpu = num_trials if num_workers == 1 else 1
    parts = range(math.ceil(num_trials / num_gpus), most_on_a_gpu + 1) if num_gpus else ()
    for share_of_gpu in [1 / number for number in parts] or [0.0]:
        if share := _largest_share(nodes, share_of_gpu, num_trials * num_workers):
            return TrialShare(share, share_of_gpu, num_trials)
    raise InputError(
        f"--concurrent {num_trials} with --num-workers {num_workers}; the CPUs and GPUs of the cluster's nodes, "
        f"{', '.join(_describe(node) for node in nodes)}, have no room for so many: wanted fewer of one"
    )


def _largest_share(nodes: list[dict[str, float]], num_gpus: float | None, number: int) -> int:
    """The most CPUs with which so many workers fit, each with so much of a GPU, as in `_places`; 0 where they do not
    fit with one CPU each."""
    most = max(int(node["CPU"]) for node in nodes)
    fitting = [num for num in range(1, most + 1) if sum(_places(node, num, num_gpus) for node in nodes) >= number]
    return max(fitting, default=0)


def _describe(node: dict[str, float]) -> str:
    return f"{int(node.get('CPU', 0))} and {int(node.get('GPU', 0))}"


class Pool(NamedTuple):
    """So many actors, each with so many CPUs and GPUs."""

    num_actors: int
    num_cpus: int
    num_gpus: int


def find_pool() -> Pool:
    """Actors that fill the cluster: one for each GPU with its share of the CPUs; where there is none, for each CPU.

    On two CPUs, photographs of 125x93 pixels (40, median of 4 runs, the CPUs busy with other things too): two actors
    with a thread each 6.3 images/s, one with two threads 4.3.
    """
    if with_gpu := [node for node in _nodes() if node.get("GPU")]:
        share = min(node.get("CPU", 0) // node["GPU"] for node in with_gpu)
        return Pool(sum(int(node["GPU"]) for node in with_gpu), max(1, int(share)), 1)
    return Pool(total_cpus(), 1, 0)


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
