"""What the connected cluster has to give."""

import ray

from srgan_ray.errors import InputError


def largest_node() -> dict[str, float]:
    """The resources of the node with the most CPUs."""
    return max(_nodes(), key=lambda node: node.get("CPU", 0))


def share_for(num_workers: int) -> tuple[int, bool]:
    """The CPUs for each of so many workers, as many as all of them can have, and whether each gets a GPU.

    Raises InputError where there are not enough CPUs for one each.
    """
    cpus = [int(node.get("CPU", 0)) for node in _nodes()]
    num_gpus = sum(int(node.get("GPU", 0)) for node in _nodes())
    fitting = [num for num in range(1, max(cpus) + 1) if sum(cpu // num for cpu in cpus) >= num_workers]
    if not fitting:
        raise InputError(
            f"--num-workers {num_workers}; the cluster has {sum(cpus)} CPUs: wanted at most one worker each"
        )
    return max(fitting), num_gpus >= num_workers


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
