"""A run whose workers grow and shrink with the nodes, in a cluster of its own."""

import json
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CODE = """
import json, os, pathlib, sys, threading, time
from ray.cluster_utils import Cluster
from srgan_ray.config import PretrainConfig
from srgan_ray.data.crops import CropConfig
from srgan_ray.models.generator import GeneratorConfig
from srgan_ray.training.loop import LoopConfig

data, out = sys.argv[1:]
health = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}
small = {"num_cpus": 1, "object_store_memory": 100_000_000}
cluster = Cluster(True, True, {**small, "include_dashboard": False, "_system_config": health})
from srgan_ray.on_ray import trainer

trainer.RESIZE_CHECK_S = 2
loop = LoopConfig(steps=100_000, evaluate_every=100, checkpoint_every=100, max_val_photographs=1)
config = PretrainConfig(data, out, CropConfig(4, 48), loop, 2, 1, generator=GeneratorConfig(1, 8))
threading.Thread(target=trainer.fit, args=[config], daemon=True).start()

def wait_for(wanted):
    # Three validations with so many workers: what came after the last checkpoint is dropped when they change.
    deadline = time.monotonic() + 120
    found = []
    while found[-3:] != [wanted] * 3:
        assert time.monotonic() < deadline, f"{found}, but not three times {wanted}"
        time.sleep(0.2)
        rows = pathlib.Path(out) / "metrics.jsonl"
        found = [json.loads(line)["num_workers"] for line in rows.read_text().splitlines()] if rows.exists() else []

wait_for(1)
node = cluster.add_node(**small)
wait_for(2)
cluster.remove_node(node, allow_graceful=False)
wait_for(1)
print("done", flush=True)
os._exit(0)
"""


def test_workers_come_and_go_with_the_nodes(shards: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(shards), str(tmp_path / "run")],
        env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.stdout.strip().endswith("done"), done.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [number for number, _ in groupby(row["num_workers"] for row in rows)] == [1, 2, 1]
    assert [row["step"] for row in rows] == list(range(100, 100 * len(rows) + 1, 100)), "nothing skipped, nothing twice"
