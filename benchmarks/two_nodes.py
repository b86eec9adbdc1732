"""What a second node costs: prepare and pretraining on two nodes with a CPU each, over one node with two CPUs.

Both are clusters of their own on this machine, a head without CPUs beside them, to which the verbs are submitted as
jobs; two nodes speak through network namespaces. The two alternate, since machines are noisy. prepare: photographs per
second of the whole job. Pretraining: steps per second between validations, the first one left out; on one node by one
worker with two CPUs or by two with one, whichever is faster. Needs root and iproute2.

    PYTHONPATH=tests python benchmarks/two_nodes.py --source PHOTOGRAPHS --data SHARDS

prints the medians and, as `ratio`, two nodes over one (wanted at least 0.85).
"""

import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

import tyro

from nodes import Network, Nodes, started


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Two nodes over one."""

    source: str
    """Photographs to prepare."""
    data: str
    """Shard set to train on."""
    limit: int = 1000
    """Photographs of a prepare."""
    steps: int = 120
    """Steps of a run, a quarter of them between validations."""
    rounds: int = 3
    """Alternations; medians are taken over them."""


def main(config: BenchmarkConfig) -> None:
    """Measure both and print one JSON object."""
    found: dict[str, list[float]] = {}
    for _ in range(config.rounds):
        for name, cpus in (("one", [2]), ("two", [1, 1])):
            with started(0, Nodes(Network())) as nodes, tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                for num_cpus in cpus:
                    nodes.add(num_cpus)
                found.setdefault(f"prepare_{name}", []).append(_prepare(nodes, config, folder))
                for num_workers in (1, 2) if name == "one" else (2,):
                    rate = _pretrain(nodes, config, f"{folder}/{num_workers}", num_workers)
                    found.setdefault(f"pretrain_{name}_by_{num_workers}", []).append(rate)
    rates = {name: statistics.median(values) for name, values in found.items()}
    ratio = {
        "prepare": rates["prepare_two"] / rates["prepare_one"],
        "pretrain": rates["pretrain_two_by_2"] / max(rates["pretrain_one_by_1"], rates["pretrain_one_by_2"]),
    }
    print(json.dumps({"per_second": rates, "ratio": ratio, "all": found}))


def _prepare(nodes: Nodes, config: BenchmarkConfig, folder: str) -> float:
    job = nodes.submit("jobs/prepare.py", config.source, f"--limit={config.limit}", f"--out={folder}/shards")
    photographs = job.summary(3600)["found"]
    info = job.info()
    return 1000 * float(photographs) / (info["end_time"] - info["start_time"])


def _pretrain(nodes: Nodes, config: BenchmarkConfig, run: str, num_workers: int) -> float:
    steps = [f"--steps={config.steps}", f"--evaluate-every={config.steps // 4}", "--max-val-photographs=1"]
    nodes.submit(
        "jobs/pretrain.py", f"--data={config.data}", f"--out={run}", f"--num-workers={num_workers}", *steps
    ).summary(3600)
    rows = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return 1 / statistics.median(row["seconds_per_step"] for row in rows[1:])


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
