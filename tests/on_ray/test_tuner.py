"""Searches under Ray Tune: real runs, gone on with after kills, and the front that one works out by hand."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fakes import write_generator
from processes import processes_of, wait_for
from srgan_ray.config import TrainConfig, from_dict
from srgan_ray.data.crops import CropConfig
from srgan_ray.errors import InputError
from srgan_ray.evaluation.judge import Judge
from srgan_ray.models.artifact import load_generator
from srgan_ray.models.discriminator import DiscriminatorConfig
from srgan_ray.search.config import TuneConfig
from srgan_ray.search.search import Search
from srgan_ray.training import plain
from srgan_ray.training.loop import LoopConfig

pytestmark = pytest.mark.ray
SPACE = ("learning_rate=log:1e-6:1e-4", "pixel_weight=log:1:100")


@pytest.fixture
def config(real_shards: Path, tmp_path: Path) -> TuneConfig:
    return TuneConfig(
        data=str(real_shards),
        out=str(tmp_path / "search"),
        init=write_generator(tmp_path / "init.safetensors", 0, "init"),
        crops=CropConfig(batch_size=2, crop_px=48),
        loop=LoopConfig(steps=4, evaluate_every=2, checkpoint_every=2, max_val_photographs=1),
        discriminator=DiscriminatorConfig(4, 16),
        vgg_weights="random",
        space=SPACE,
        trials=2,
        baseline_seeds=1,
        sampler="random",
        choose="0",
    )


def run(config: TuneConfig) -> dict:
    from srgan_ray.on_ray import tuner

    search = Search(config)
    with search.opened():
        return search.finish(tuner.search(search.config, search.space))


def rows(config: TuneConfig) -> list[dict]:
    return [json.loads(line) for line in (Path(config.out) / "trials.jsonl").read_text().splitlines()]


def without_times(found: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def run_of(config: TuneConfig, number: int) -> Path:
    return Path(config.out) / "trials" / f"{number:05d}"


def test_each_trial_is_a_run_of_train(config: TuneConfig, ray_cluster: None, tmp_path: Path) -> None:
    summary = run(config)
    found = rows(config)
    assert [row["status"] for row in found] == ["finished"] * 3
    assert [set(row["settings"]) for row in found] == [{"crops.seed"}, *[{"learning_rate", "pixel_weight"}] * 2]
    assert summary["trials"] == {"finished": 3}
    assert Path(summary["generator"]).read_bytes() == (run_of(config, 0) / "generator.safetensors").read_bytes()

    trained = from_dict(json.loads((run_of(config, 2) / "config.json").read_text())["config"])
    assert isinstance(trained, TrainConfig)
    assert trained.learning_rate == found[2]["settings"]["learning_rate"]
    plain.fit(dataclasses.replace(trained, out=str(tmp_path / "by_hand")))
    ours, theirs = (
        load_generator(str(place / "generator.safetensors")) for place in (run_of(config, 2), tmp_path / "by_hand")
    )
    judged = Judge(config.data, config.crops.degradation, 1)(theirs[0])
    assert {name: figure.value for name, figure in judged.items()} == pytest.approx(
        {name: figure["value"] for name, figure in found[2]["figures"].items()}, rel=0.02
    )
    assert ours[1].step == theirs[1].step


def test_a_search_goes_on_with_what_is_left(config: TuneConfig, ray_cluster: None) -> None:
    config = dataclasses.replace(config, concurrent=1)
    run(config)
    whole = rows(config)
    kept = run_of(config, 1) / "metrics.jsonl"
    written = kept.stat().st_mtime_ns
    interrupted = [*whole[:2], {**whole[2], "status": "running", "step": 0, "seconds": 0.0, "figures": {}}]
    (Path(config.out) / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in interrupted))
    run(dataclasses.replace(config, trials=3))
    assert without_times(rows(config)[:3]) == without_times(whole)
    assert len(rows(config)) == 4
    assert kept.stat().st_mtime_ns == written


def test_hopeless_trials_are_stopped(config: TuneConfig, ray_cluster: None) -> None:
    """A learning rate of 1 ruins a generator: its loss_val is hopeless beside the baseline's."""
    config = dataclasses.replace(
        config,
        space=("learning_rate=choice:1e-4,1",),
        trials=5,
        concurrent=1,
        stop_early=True,
        loop=dataclasses.replace(config.loop, steps=6),
    )
    run(config)
    found = {row["number"]: row for row in rows(config)}
    stopped = [row for row in found.values() if row["status"] == "stopped"]
    assert stopped
    assert all(row["settings"]["learning_rate"] == 1 and row["step"] < 6 and not row["figures"] for row in stopped)


def test_a_trial_that_cannot_be_trained_is_a_failed_row(config: TuneConfig, ray_cluster: None) -> None:
    run(dataclasses.replace(config, space=("learning_rate=choice:1e-6,1e30",), trials=4))
    failed = [row for row in rows(config) if row["status"] == "failed"]
    assert failed
    assert all(row["settings"]["learning_rate"] == 1e30 for row in failed)
    assert all("no longer finite" in row["error"] or "became" in row["error"] for row in failed)


@pytest.mark.slow
def test_trials_of_several_workers(config: TuneConfig, ray_cluster: None) -> None:
    run(dataclasses.replace(config, num_workers=2, baseline_seeds=0, trials=1))
    [row] = rows(config)
    assert (row["status"], row["step"]) == ("finished", 4)
    metrics = [json.loads(line) for line in (run_of(config, 0) / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["num_workers"]) for row in metrics] == [(2, 2), (4, 2)]


def test_more_trials_at_a_time_than_cpus_are_refused(config: TuneConfig, ray_cluster: None) -> None:
    with pytest.raises(InputError, match="--concurrent 1000 with --num-workers 1; the cluster has"):
        run(dataclasses.replace(config, concurrent=1000))


@pytest.mark.slow
def test_kills_cost_no_trial(config: TuneConfig, tmp_path: Path) -> None:
    """A trial's process killed, then the command; started again, it ends with the rows of a search left alone."""
    steps = dataclasses.replace(config.loop, steps=40, evaluate_every=40, checkpoint_every=4)
    config = dataclasses.replace(config, loop=steps, concurrent=1, baseline_seeds=1, trials=1)
    first = start(config)
    wait_for(lambda: (run_of(config, 0) / "checkpoints").is_dir() and trial_process(first.pid))
    os.kill(trial_process(first.pid), signal.SIGKILL)
    wait_for(lambda: len(list((run_of(config, 1) / "checkpoints").glob("*/checkpoint.json"))) > 0)
    first.kill()
    first.communicate(timeout=60)
    wait_for(lambda: not trial_process(first.pid), 30)
    before = rows(config)
    assert [row["status"] for row in before] == ["finished", "running"]

    again = start(config)
    _, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    killed = rows(config)
    assert killed[0] == before[0]

    alone = dataclasses.replace(config, out=str(tmp_path / "alone"))
    undisturbed = start(alone)
    undisturbed.communicate(timeout=200)
    assert undisturbed.returncode == 0
    assert without_times(killed) == without_times(rows(alone))


def start(config: TuneConfig) -> subprocess.Popen:
    loop = config.loop
    arguments = [
        *("tune", "--data", config.data, "--out", config.out, "--init", config.init, "--vgg-weights", "random"),
        *("--batch-size", "2", "--crop-px", "48", "--steps", str(loop.steps), "--max-val-photographs", "1"),
        *("--evaluate-every", str(loop.evaluate_every), "--checkpoint-every", str(loop.checkpoint_every)),
        *("--discriminator.num-features", "4", "--discriminator.num-units", "16", "--sampler", "random"),
        *("--space", *SPACE, "--trials", str(config.trials), "--baseline-seeds", "1", "--concurrent", "1"),
        *("--choose", "0"),
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "srgan_ray", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def trial_process(session: int) -> int:
    """The process of a session that trains, 0 for none."""
    found = [pid for pid, command in processes_of(session).items() if command.startswith("ray::ImplicitFunc.train")]
    return found[0] if found else 0
