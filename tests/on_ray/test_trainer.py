"""Runs under Ray Train: the same result as without it, one machine or two workers, and back after a kill."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from srgan_ray.config import PretrainConfig, TrainConfig
from srgan_ray.data.crops import CropConfig
from srgan_ray.errors import InputError
from srgan_ray.models.artifact import load_generator
from srgan_ray.models.discriminator import DiscriminatorConfig
from srgan_ray.models.generator import GeneratorConfig
from srgan_ray.training import plain
from srgan_ray.training.loop import LoopConfig

pytestmark = pytest.mark.ray


def tiny(shards: Path, out: Path, **changes) -> PretrainConfig:
    config = PretrainConfig(
        data=str(shards),
        out=str(out),
        crops=CropConfig(batch_size=4, crop_px=48),
        loop=LoopConfig(steps=4, evaluate_every=2, checkpoint_every=2),
        learning_rate=1e-3,
        generator=GeneratorConfig(1, 8),
    )
    return dataclasses.replace(config, **changes)


def fit(config) -> dict:
    from srgan_ray.on_ray import trainer

    return trainer.fit(config)


def checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").glob("step_*"))


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_under_ray_is_the_plain_run(shards: Path, ray_cluster: None, tmp_path: Path, capsys) -> None:
    under_ray = fit(tiny(shards, tmp_path / "ray"))
    assert "4/4: loss_train = " in capsys.readouterr().err
    without = plain.fit(tiny(shards, tmp_path / "plain"))
    assert under_ray["psnr_val"] == pytest.approx(without["psnr_val"], abs=1e-6)
    ours, theirs = (load_generator(summary["generator"])[0].state_dict() for summary in (under_ray, without))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert checkpoints(tmp_path / "ray") == checkpoints(tmp_path / "plain") == ["step_00000002", "step_00000004"]


def test_two_workers_train_together_and_go_on(shards: Path, ray_cluster: None, tmp_path: Path) -> None:
    """Both stages as DDP; the second call goes on from the first one's checkpoint."""
    config = tiny(shards, tmp_path / "pretrained", num_workers=2)
    fit(dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=2)))
    assert fit(config)["step"] == 4
    assert [row["step"] for row in rows(tmp_path / "pretrained")] == [2, 4]
    summary = fit(
        TrainConfig(
            data=config.data,
            out=str(tmp_path / "trained"),
            init=config.out,
            crops=config.crops,
            loop=config.loop,
            num_workers=2,
            discriminator=DiscriminatorConfig(4, 16),
            vgg_weights="random",
        )
    )
    assert summary["step"] == 4
    assert load_generator(summary["generator"])[1].vgg_weights == "random, seed 0"


def test_more_workers_than_cpus_are_refused(shards: Path, ray_cluster: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--num-workers 1000; the cluster has"):
        fit(tiny(shards, tmp_path / "x", num_workers=1000, crops=CropConfig(1000, 48)))


def start(shards: Path, out: Path) -> subprocess.Popen:
    arguments = (
        f"pretrain --data {shards} --out {out} --crop-px 48 --batch-size 4 --steps 2000 --evaluate-every 2000 "
        "--checkpoint-every 10 --generator.num-blocks 1 --generator.num-features 8"
    )
    return subprocess.Popen(
        [sys.executable, "-m", "srgan_ray", *arguments.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def processes_of(session: int) -> list[str]:
    """Command lines of living processes of a session, from /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((path / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_command_leaves_nothing_behind_and_goes_on(
    shards: Path, tmp_path: Path, signal_number: signal.Signals
) -> None:
    out = tmp_path / "run"
    running = start(shards, out)
    wait_for(lambda: checkpoints(out))
    running.send_signal(signal_number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == (-9 if signal_number == signal.SIGKILL else 130), errors
    if signal_number != signal.SIGKILL:
        assert errors.splitlines()[-1].startswith("srgan-ray pretrain: stopped; the same command goes on")
        assert "Traceback" not in errors
    wait_for(lambda: not processes_of(running.pid), 30)
    reached = int(checkpoints(out)[-1].removeprefix("step_"))
    again = start(shards, out)
    wait_for(lambda: len(checkpoints(out)) == 2 and checkpoints(out)[-1] > f"step_{reached + 20:08d}")
    kept = checkpoints(out)
    assert int(kept[0].removeprefix("step_")) > reached, "began anew instead of going on"
    os.kill(again.pid, signal.SIGKILL)
    again.communicate(timeout=60)
    wait_for(lambda: not processes_of(again.pid), 30)
    assert reached >= 10


@pytest.mark.slow
def test_a_killed_worker_is_replaced(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = start(shards, out)
    wait_for(lambda: checkpoints(out))
    killed = worker_pid(running.pid)
    os.kill(killed, signal.SIGKILL)
    reached = checkpoints(out)[-1]
    wait_for(lambda: checkpoints(out) and checkpoints(out)[-1] > reached and worker_pid(running.pid) not in (0, killed))
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    wait_for(lambda: not processes_of(running.pid), 30)


def worker_pid(session: int) -> int:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            in_session = int((path / "stat").read_text().rpartition(")")[2].split()[3]) == session
            if in_session and (path / "cmdline").read_text().startswith("ray::RayTrainWorker"):
                return int(path.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return 0
