"""Runs under Ray Train: the same result as without it, one machine or two workers, and back after a kill."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch

from fakes import photograph
from processes import processes_of, wait_for
from srgan_ray.config import PretrainConfig, TrainConfig
from srgan_ray.data.crops import CropConfig
from srgan_ray.data.images import encode
from srgan_ray.data.storage import Folder
from srgan_ray.errors import InputError
from srgan_ray.models.artifact import FILE_NAME, load_generator
from srgan_ray.models.discriminator import DiscriminatorConfig
from srgan_ray.models.generator import GeneratorConfig
from srgan_ray.training import plain
from srgan_ray.training.checkpoint import sealed
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


def test_a_lone_worker_does_not_call_on_gloo(ray_cluster: None, monkeypatch) -> None:
    from srgan_ray.on_ray import trainer

    def refuse(*args) -> None:
        raise AssertionError("a collective call")

    monkeypatch.setattr(trainer.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(trainer.dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(trainer.dist, "all_gather_object", refuse)
    monkeypatch.setattr(trainer.dist, "all_reduce", refuse)
    tensor = torch.ones(2)
    trainer._average([tensor])
    assert trainer._gather("value") == ["value"]
    assert torch.equal(tensor, torch.ones(2))


def checkpoints(out: Path) -> list[str]:
    """Finished ones: a kill while one is being written leaves a folder that counts for nothing."""
    return sealed(Folder(out / "checkpoints"))


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


def test_two_workers_train_together(shards: Path, ray_cluster: None, tmp_path: Path) -> None:
    """Both stages as DDP."""
    config = tiny(shards, tmp_path / "pretrained", num_workers=2)
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
    assert [row["step"] for row in rows(tmp_path / "trained")] == [2, 4]
    assert load_generator(summary["generator"])[1].vgg_weights == "random, seed 0"


@pytest.mark.slow
def test_a_run_on_object_storage(shards: Path, bucket: str, tmp_path: Path) -> None:
    """Shards, run and generator by URI; the second command goes on where the first ended."""
    arguments = "--batch-size 4 --crop-px 48 --generator.num-blocks 1 --generator.num-features 8 --evaluate-every 2"
    for name in Folder(shards).names():
        Folder(f"{bucket}/shards").write(name, Folder(shards).read(name))
    for num_steps in (2, 4):
        run = f"pretrain --data {bucket}/shards --out {bucket}/run --steps {num_steps} {arguments}"
        assert command(run)["step"] == num_steps
    local = plain.fit(tiny(shards, tmp_path / "plain", learning_rate=1e-4))
    places = f"{bucket}/run/{FILE_NAME}", local["generator"]
    ours, theirs = (load_generator(place)[0].state_dict() for place in places)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    (tmp_path / "lr.png").write_bytes(encode(photograph(0, 20, 20), "png"))
    upscaled = command(f"upscale {tmp_path}/lr.png --out {tmp_path}/sr --generator {bucket}/run")
    assert upscaled["generator"] == "run-pretrain-4"


def command(arguments: str) -> dict:
    """The last line of a command that is to succeed."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    words = [sys.executable, "-m", "srgan_ray", *arguments.split()]
    done = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_more_workers_than_cpus_are_refused(shards: Path, ray_cluster: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--num-workers 1000; the cluster has"):
        fit(tiny(shards, tmp_path / "x", num_workers=1000, crops=CropConfig(1000, 48)))


def test_what_workers_died_of_is_said_in_one_line(shards: Path, ray_cluster: None, tmp_path: Path, monkeypatch) -> None:
    from srgan_ray.on_ray import trainer

    def die(_: dict) -> None:
        raise LookupError("no such luck")

    monkeypatch.setattr(trainer, "MAX_RESTARTS", 1)
    monkeypatch.setattr(trainer, "_train_loop_per_worker", die)
    with pytest.raises(InputError, match=r"died 2 times .*, at last of: LookupError: no such luck; the same command"):
        fit(tiny(shards, tmp_path / "run"))


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


@pytest.mark.slow
def test_kills_cost_at_most_the_steps_since_the_last_checkpoint(shards: Path, tmp_path: Path) -> None:
    """The command killed, started again, its worker killed, and at last stopped as `ray job stop` does it."""
    out = tmp_path / "run"
    first = start(shards, out)
    wait_for(lambda: checkpoints(out))
    first.kill()
    first.communicate(timeout=60)
    wait_for(lambda: not worker_pid(first.pid), 30)
    reached = checkpoints(out)[-1]

    again = start(shards, out)
    wait_for(lambda: checkpoints(out)[0] > reached)  # the older of those kept is younger than the kill
    killed, reached = worker_pid(again.pid), checkpoints(out)[-1]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: checkpoints(out)[0] > reached and worker_pid(again.pid) not in (0, killed))

    again.send_signal(signal.SIGTERM)
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("srgan-ray pretrain: stopped; the same command goes on")
    assert "Traceback" not in errors
    wait_for(lambda: not processes_of(again.pid), 30)


def worker_pid(session: int) -> int:
    """The training worker of a session, 0 for none."""
    workers = [pid for pid, command in processes_of(session).items() if command.startswith("ray::RayTrainWorker")]
    return workers[0] if workers else 0


@pytest.mark.slow
def test_deaths_are_counted_between_checkpoints(
    shards: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srgan_ray.on_ray import trainer

    def kill_worker() -> None:
        [worker] = [child for child in psutil.Process().children(recursive=True) if "RayTrainWorker" in child.name()]
        worker.kill()

    monkeypatch.setattr(trainer, "MAX_RESTARTS", 0)
    loop = LoopConfig(steps=1500, evaluate_every=1500, checkpoint_every=50)
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(fit, tiny(shards, tmp_path / "run", loop=loop))
        wait_for(lambda: checkpoints(tmp_path / "run"))
        kill_worker()
        assert running.result(120)["step"] == 1500

        stuck = executor.submit(
            fit, tiny(shards, tmp_path / "stuck", loop=dataclasses.replace(loop, checkpoint_every=1500))
        )
        wait_for(lambda: (tmp_path / "stuck" / "config.json").exists())
        kill_worker()
        with pytest.raises(
            InputError, match=r"workers died 1 times without a new checkpoint, at last of: \w.*; the same"
        ):
            stuck.result(120)
