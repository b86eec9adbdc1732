"""Searches under Ray Tune: real runs, gone on with after kills, and the front that one works out by hand."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fakes import finished_trial, torch_threads, write_generator
from processes import processes_of, wait_for
from srgan_ray.config import TrainConfig, from_dict, with_settings
from srgan_ray.data.crops import CropConfig
from srgan_ray.errors import InputError
from srgan_ray.evaluation.judge import Judge
from srgan_ray.models.artifact import load_generator
from srgan_ray.models.discriminator import DiscriminatorConfig
from srgan_ray.search.config import TuneConfig
from srgan_ray.search.folder import SearchFolder, from_row
from srgan_ray.search.population import schedule_of
from srgan_ray.search.progress import Progress
from srgan_ray.search.search import Search
from srgan_ray.search.space import parse_space
from srgan_ray.search.trials import RUNNING, Trial
from srgan_ray.training import plain
from srgan_ray.training.loop import LoopConfig
from srgan_ray.training.run import load_latest

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


@pytest.fixture
def population(config: TuneConfig, shards: Path) -> TuneConfig:
    """Of three, on small photographs."""
    loop = dataclasses.replace(config.loop, steps=4, checkpoint_every=1)
    return dataclasses.replace(config, data=str(shards), population=True, loop=loop, trials=3, baseline_seeds=0)


@pytest.mark.slow
def test_weights_of_a_population_went_through_the_schedule_that_is_told(
    population: TuneConfig, ray_cluster: None, tmp_path: Path
) -> None:
    """Trained again by hand, stretch by stretch in one run folder, they are the same."""
    run(population)
    found = [from_row(row) for row in rows(population)]
    assert [(trial.status, trial.step, len(trial.legs)) for trial in found] == [("finished", 4, 1)] * 3
    replaced = [trial for trial in found if any(leg.went_on_from is not None for leg in trial.legs)]
    assert replaced, "none went on from another: another seed is wanted"
    trial = replaced[-1]
    schedule = schedule_of(trial, found)
    ends = [*(stretch.from_step for stretch in schedule[1:]), 4]
    by_hand = str(tmp_path / "by_hand")
    for stretch, end in zip(schedule, ends):
        training = with_settings(dataclasses.replace(population.training, out=by_hand), stretch.settings)
        with torch_threads(1):  # as each trial has
            plain.fit(training, last_step=end)
    ours, theirs = (
        load_latest(dataclasses.replace(training, out=out)) for out in (str(run_of(population, trial.number)), by_hand)
    )
    for name, weights in ours.state_dict().items():
        assert torch.equal(weights, theirs.state_dict()[name]), name

    trained = from_dict(json.loads((run_of(population, trial.number) / "config.json").read_text())["config"])
    assert {path: getattr(trained, path) for path in trial.settings} == trial.settings
    metrics = [
        json.loads(line) for line in (run_of(population, trial.number) / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in metrics] == [2, 4]


@pytest.mark.parametrize("killed_in", ["take_over", "write_trials"])
def test_a_command_killed_between_two_legs_does_the_same_again(
    killed_in: str, population: TuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srgan_ray.on_ray.tuner import Book

    folder, space = SearchFolder(population.out), parse_space(SPACE, population.training)
    settings = [{"learning_rate": rate, "pixel_weight": 5.0} for rate in (1e-5, 1e-6, 2e-6)]
    waiting = [
        dataclasses.replace(finished_trial(number, 20 + number, 100 - number, settings[number]), status=RUNNING, step=2)
        for number in range(3)
    ]
    folder.write_trials(waiting)
    for number in range(3):
        for name in (f"checkpoints/step_2/{number}", "config.json", "metrics.jsonl", "lock"):
            path = run_of(population, number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{number}")

    def exchange() -> list[Trial]:
        with Progress(population) as progress:
            book = Book(population, space, folder, progress)
            return [suggested["trial"] for suggested in map(book.suggest, "abc")]

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SearchFolder, killed_in, die)
        with pytest.raises(KeyboardInterrupt):
            exchange()
    assert folder.trials() == waiting
    again = exchange()
    assert folder.trials() == again
    assert [trial.legs[-1].went_on_from for trial in again] == [2, None, None]
    assert again[0].settings != settings[0]
    held = {
        path.relative_to(run_of(population, 0)): path.read_text()
        for path in run_of(population, 0).rglob("*")
        if path.is_file()
    }
    assert held == {
        Path("checkpoints/step_2/2"): "2",
        Path("metrics.jsonl"): "2",
        Path("config.json"): "0",
        Path("lock"): "0",
    }


def test_a_trial_that_cannot_be_trained_is_a_failed_row(config: TuneConfig, ray_cluster: None) -> None:
    run(dataclasses.replace(config, space=("learning_rate=choice:1e-6,1e30",), trials=4))
    failed = [row for row in rows(config) if row["status"] == "failed"]
    assert failed
    assert all(row["settings"]["learning_rate"] == 1e30 for row in failed)
    assert all("no longer finite" in row["error"] or "became" in row["error"] for row in failed)


def test_settings_that_do_not_go_together_are_a_failed_trial(
    config: TuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srgan_ray.on_ray import tuner
    from srgan_ray.on_ray.cluster import TrialShare

    told: list[dict] = []
    monkeypatch.setattr(tuner.ray.tune, "report", told.append)
    with torch_threads(1):
        tuner._train({"trial": Trial(1, {"crops.batch_size": 1, "crops.crop_px": 16})}, config, TrialShare(1, 0, 1))
    [row] = told
    assert row["error"].startswith("--crop-px 16 --batch-size 1 --num-workers 1; BatchNorm would see one value")


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
@pytest.mark.timeout(600)
def test_a_killed_population_ends_as_one_left_alone(population: TuneConfig, tmp_path: Path) -> None:
    """The command killed in the middle of a leg, after some trial went on from another."""
    population = dataclasses.replace(population, concurrent=1)
    first = start(population, "--population")
    wait_for(
        lambda: any((run_of(population, number) / "checkpoints/step_00000003").is_dir() for number in range(3)), 200
    )
    first.kill()
    first.communicate(timeout=60)
    wait_for(lambda: not trial_process(first.pid), 30)
    before = rows(population)
    assert any(leg["went_on_from"] is not None for row in before for leg in row["legs"])
    assert "running" in [row["status"] for row in before]

    alone = dataclasses.replace(population, out=str(tmp_path / "alone"))
    for config in (population, alone):
        command = start(config, "--population")
        _, errors = command.communicate(timeout=300)
        assert command.returncode == 0, errors
    assert without_times(rows(population)) == without_times(rows(alone))


@pytest.mark.slow
def test_ctrl_c_stops_a_search_that_goes_on(config: TuneConfig) -> None:
    steps = dataclasses.replace(config.loop, steps=400, evaluate_every=400, checkpoint_every=4)
    config = dataclasses.replace(config, loop=steps)
    running = start(config)
    wait_for(lambda: list((run_of(config, 0) / "checkpoints").glob("*/checkpoint.json")))
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("srgan-ray tune: stopped; the same command goes on")
    assert not output
    assert not (Path(config.out) / "generator.safetensors").exists()
    assert [row["status"] for row in rows(config)] == ["running"]


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


def start(config: TuneConfig, *flags: str) -> subprocess.Popen:
    loop = config.loop
    arguments = [
        *("tune", "--data", config.data, "--out", config.out, "--init", config.init, "--vgg-weights", "random"),
        *("--batch-size", "2", "--crop-px", "48", "--steps", str(loop.steps), "--max-val-photographs", "1"),
        *("--evaluate-every", str(loop.evaluate_every), "--checkpoint-every", str(loop.checkpoint_every)),
        *("--discriminator.num-features", "4", "--discriminator.num-units", "16", "--sampler", "random"),
        *("--space", *SPACE, "--trials", str(config.trials), "--baseline-seeds", str(config.baseline_seeds)),
        *("--concurrent", "1", "--choose", "0", *flags),
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
