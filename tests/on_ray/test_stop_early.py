"""ASHA's rungs after a kill: the same decisions as in a search that was left alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from srgan_ray.search.folder import SearchFolder
from srgan_ray.search.trials import FINISHED, SEED, STOPPED, Trial
from srgan_ray.training.loop import LoopConfig

LOOP = LoopConfig(steps=8, evaluate_every=1, checkpoint_every=2)
QUALITY, NOISE = (np.random.default_rng(0).random(shape) for shape in ((9, 1), (9, LOOP.steps)))
LOSSES = (QUALITY + NOISE / 2).tolist()  # of each trial, at each validation
TRIALS = [Trial(number, {SEED: 0} if number == 0 else {"learning_rate": 1e-4}) for number in range(len(LOSSES))]


class Stopwatch:
    """Feeds a scheduler with one trial after the other; every decision is kept."""

    def __init__(self, folder: SearchFolder, trials: list[Trial]) -> None:
        from srgan_ray.on_ray.tuner import StopHopeless

        self._scheduler = StopHopeless(LOOP, folder, trials)

    def run(self, number: int, begun: int = 0) -> Iterator[tuple[int, int, str]]:
        """(trial, step, decision) for each validation after step `begun`, until it is stopped or done."""
        trial = SimpleNamespace(trial_id=f"tune {number} from {begun}", config={"trial": TRIALS[number]})
        self._scheduler.on_trial_add(None, trial)
        for step in range(begun + 1, LOOP.steps + 1):
            row = {"step": step, "loss_val": LOSSES[number][step - 1]}
            decision = self._scheduler.on_trial_result(None, trial, row)
            yield number, step, decision
            if decision == "STOP":
                return
        self._scheduler.on_trial_complete(None, trial, row)


def checkpoint_before(step: int) -> int:
    """Of a trial that was stopped at this step, or killed: a checkpoint comes after the decision on its validation."""
    return (step - 1) // LOOP.checkpoint_every * LOOP.checkpoint_every


def write_run(folder: SearchFolder, number: int, num_rows: int, checkpoint: int) -> None:
    run = Path(folder.run_of(TRIALS[number]))
    (run / f"checkpoints/step_{checkpoint:08d}").mkdir(parents=True)
    if checkpoint:
        (run / f"checkpoints/step_{checkpoint:08d}/checkpoint.json").write_text("{}")
    rows = [{"step": step + 1, "loss_val": loss} for step, loss in enumerate(LOSSES[number][:num_rows])]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, int, str]]:
    watch = Stopwatch(SearchFolder(str(tmp_path_factory.mktemp("whole"))), [])
    return [event for number in range(len(TRIALS)) for event in watch.run(number)]


def test_some_are_stopped_and_no_baseline(undisturbed: list[tuple[int, int, str]]) -> None:
    stopped = {number for number, _, decision in undisturbed if decision == "STOP"}
    assert 2 <= len(stopped) <= len(TRIALS) - 3
    assert 0 not in stopped
    assert {decision for _, step, decision in undisturbed if step == LOOP.steps} == {"CONTINUE"}, "trained to the end"


def test_a_search_shorter_than_the_time_between_validations(tmp_path: Path) -> None:
    from srgan_ray.on_ray.tuner import StopHopeless

    loop = LoopConfig(steps=5, evaluate_every=8)
    scheduler = StopHopeless(loop, SearchFolder(str(tmp_path)), [])
    for trial in TRIALS:
        known = SimpleNamespace(trial_id=trial.name, config={"trial": trial})
        scheduler.on_trial_add(None, known)
        assert scheduler.on_trial_result(None, known, {"step": 5, "loss_val": 1.0}) == "CONTINUE"


@pytest.mark.parametrize("done", range(1, 36))
def test_rungs_go_on_where_they_were(done: int, undisturbed: list[tuple[int, int, str]], tmp_path: Path) -> None:
    """Killed when so many validations were written: the trial under way goes on from its checkpoint, and validates
    again, and is judged again by, what came after it."""
    folder = SearchFolder(str(tmp_path))
    current, reached, _ = undisturbed[done - 1]
    ends = {number: (step, decision) for number, step, decision in undisturbed if number < current}
    ended = [Trial(n, TRIALS[n].settings, STOPPED if ends[n][1] == "STOP" else FINISHED) for n in ends]
    for number, (step, _) in [*ends.items(), (current, (reached, ""))]:
        write_run(folder, number, step, checkpoint_before(step))

    watch = Stopwatch(folder, [*ended, TRIALS[current]])
    events = list(watch.run(current, checkpoint_before(reached)))
    events += [event for number in range(current + 1, len(TRIALS)) for event in watch.run(number)]
    assert events == [event for event in undisturbed if event[:2] > (current, checkpoint_before(reached))]
