"""Trials that share a GPU, as Ray counts them: no GPU has to be there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fakes import write_generator

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NUM_TRIALS = 3

# Long trials, until all are seen in the middle of their runs, whose folders are locked then; what Ray has left is told.
CODE = """
import json, os, pathlib, sys, threading, time
import ray
from srgan_ray.data.crops import CropConfig
from srgan_ray.models.discriminator import DiscriminatorConfig
from srgan_ray.search.config import TuneConfig
from srgan_ray.search.search import Search
from srgan_ray.training.loop import LoopConfig

data, out, init, number = sys.argv[1:]
ray.init("local", num_cpus=int(number), num_gpus=1, include_dashboard=False, log_to_driver=False)
from srgan_ray.on_ray import tuner

config = TuneConfig(
    data=data, out=out, init=init, crops=CropConfig(2, 48), loop=LoopConfig(100_000, 100_000, 1, 1),
    discriminator=DiscriminatorConfig(4, 16), vgg_weights="random", trials=2 * int(number), baseline_seeds=0,
    sampler="random", concurrent=int(number),
)
search = Search(config)

def num_running():
    held = {line.split()[5].split(":")[-1] for line in pathlib.Path("/proc/locks").read_text().splitlines()}
    runs = pathlib.Path(out).glob("trials/*")
    return sum(
        str((run / "lock").stat().st_ino) in held and bool(list(run.glob("checkpoints/*/checkpoint.json")))
        for run in runs if (run / "lock").exists()
    )

with search.opened():
    threading.Thread(target=tuner.search, args=[search.config, search.space], daemon=True).start()
    deadline = time.monotonic() + 200
    while num_running() < int(number) and time.monotonic() < deadline:
        time.sleep(0.2)
    print(json.dumps({"running": num_running(), "left": ray.available_resources()}), flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="Linux tells who holds a lock")
def test_trials_that_share_a_gpu_run_at_the_same_time(shards: Path, tmp_path: Path) -> None:
    init = write_generator(tmp_path / "init.safetensors", 0, "init")
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(shards), str(tmp_path / "search"), init, str(NUM_TRIALS)],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.stdout, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["running"] == NUM_TRIALS
    assert found["left"].get("GPU", 0) < 0.01
    assert found["left"].get("CPU", 0) == 0
    begun = [json.loads(line) for line in (tmp_path / "search" / "trials.jsonl").read_text().splitlines()]
    assert [row["status"] for row in begun] == ["running"] * NUM_TRIALS
