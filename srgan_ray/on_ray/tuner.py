"""A search under Ray Tune: each trial a training run of its own, several at a time, gone on with after any death.

Tune hands out the resources, starts, stops and restarts trials. What is known of them lies in the search folder, not in
Tune's own files: a search that is started again begins a new Tune experiment with what is left.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import ray
import ray.tune
import torch
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from srgan_ray.errors import InputError
from srgan_ray.evaluation.metrics import as_json, from_json
from srgan_ray.models.artifact import load_generator
from srgan_ray.on_ray import trainer
from srgan_ray.on_ray.cluster import TrialShare, share_for_trials
from srgan_ray.search.config import TuneConfig
from srgan_ray.search.folder import SearchFolder
from srgan_ray.search.population import exchange, leg_end, num_legs
from srgan_ray.search.progress import Progress
from srgan_ray.search.search import make_judge, training_of
from srgan_ray.search.space import Space
from srgan_ray.search.trials import FAILED, FINISHED, RUNNING, STOPPED, Trial, format_settings, next_trial
from srgan_ray.training import plain
from srgan_ray.training.folder import RAY_FILES, RunFolder
from srgan_ray.training.loop import LoopConfig
from srgan_ray.training.run import load_latest

NOTHING_YET = {"step": 0, "loss_val": 0.0, "elapsed_s": 0.0}
# Of a trial whose workers have the CPUs; Tune does not take nothing, and a hundredth of a CPU is missing from the last.
NEXT_TO_NOTHING = {"CPU": 0.0, "memory": 1.0}
MAX_RESTARTS = 3  # of a trial whose process died


def search(config: TuneConfig, space: Space) -> list[Trial]:
    """Run, or go on with, the search; returns its trials. Ray must be connected, and the folder locked.

    Raises InputError where the cluster has too few CPUs for a trial.
    """
    folder = SearchFolder(config.out)
    with Progress(config) as progress:
        book = Book(config, space, folder, progress)
        if book.num_left:
            share = share_for_trials(config.concurrent, config.num_workers, book.num_left)
            os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # whose tables come even where verbose is 0
            os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # one of which ends Ctrl-C with a traceback
            os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # with it Ctrl-C would end the search as if it were done
            _make_tuner(config, book, share).fit()
        return book.trials


def _make_tuner(config: TuneConfig, book: "Book", share: TrialShare) -> ray.tune.Tuner:
    trainable = ray.tune.with_parameters(_train, config=config, share=share)
    resources = {"CPU": float(share.num_cpus), "GPU": share.num_gpus} if config.num_workers == 1 else NEXT_TO_NOTHING
    return ray.tune.Tuner(
        ray.tune.with_resources(trainable, resources),
        tune_config=ray.tune.TuneConfig(
            search_alg=book,
            scheduler=_scheduler(config, book.trials),
            num_samples=book.num_left * num_legs(config),
            max_concurrent_trials=share.num_trials,
            # A new process would import torch again, for seconds; but a stopped trial's workers end only with it.
            reuse_actors=config.num_workers == 1,
        ),
        run_config=ray.tune.RunConfig(
            name=RAY_FILES,
            storage_path=config.out,
            failure_config=ray.tune.FailureConfig(max_failures=MAX_RESTARTS),
            verbose=0,
        ),
    )


def _scheduler(config: TuneConfig, trials: Sequence[Trial]) -> Any:
    """The hopeless are stopped by `loss_val`, which does not depend on the weights that are tried."""
    if not config.stop_early:
        return FIFOScheduler()
    return StopHopeless(config.loop, SearchFolder(config.out), trials)


class StopHopeless(ASHAScheduler):
    """ASHA, which never stops a baseline, with which the others are compared, nor a trial that has all its steps.

    What trials came to before the command was started again counts, as if it had not been killed.
    """

    def __init__(self, loop: LoopConfig, folder: SearchFolder, trials: Sequence[Trial]) -> None:
        super().__init__(
            time_attr="step",
            metric="loss_val",
            mode="min",
            grace_period=min(loop.evaluate_every, loop.steps),
            max_t=loop.steps + 1,  # at which it would stop every trial, before its generator is measured
            reduction_factor=2,
        )
        self._last_step = loop.steps
        self._interrupted: dict[int, RunFolder] = {}
        for trial in trials:
            run = RunFolder(folder.run_of(trial))
            if trial.status == RUNNING:
                self._interrupted[trial.number] = run
            else:
                self._add(None, SimpleNamespace(trial_id=trial.name), run.metrics())

    def _add(self, tune_controller: Any, trial: Any, rows: Iterable[dict[str, Any]]) -> None:
        super().on_trial_add(tune_controller, trial)
        for row in rows:
            super().on_trial_result(tune_controller, trial, row)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """One that was interrupted goes on with what it was judged by: what comes after its checkpoint comes again."""
        run = self._interrupted.get(trial.config["trial"].number)
        self._add(tune_controller, trial, run.settled_metrics() if run else ())

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        is_whole = result["step"] >= self._last_step
        return TrialScheduler.CONTINUE if is_whole or trial.config["trial"].is_baseline else decision


def _train(settings: dict[str, Any], config: TuneConfig, share: TrialShare) -> None:
    """A trial, in its own process. What a restart would not help is reported, not raised."""
    # A stopped trial may still write its checkpoint and report: after 2 s Ray would give up the one that comes next in
    # this process, and never tell the searcher, which then waits for it for ever.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "3600"
    torch.set_num_threads(share.num_cpus)
    report = TuneReport()
    try:
        training, last_step = training_of(config, settings["trial"]), leg_end(config, settings["trial"])
        if training.num_workers == 1:
            plain.fit(training, report, last_step)  # here: Ray Train would start a process for it, in 10 s
        else:
            trainer.fit(training, report, share.num_cpus, last_step)
        folder = RunFolder(training.out)
        is_whole = last_step == training.loop.steps  # else it is measured as it goes on, not as it was at its best
        generator = load_generator(folder.generator_file)[0] if is_whole else load_latest(training)
        ray.tune.report({**brief(folder.metrics()[-1]), "figures": json.dumps(as_json(make_judge(config)(generator)))})
    except (InputError, FloatingPointError) as error:
        ray.tune.report({**(report.last or NOTHING_YET), "error": " ".join(str(error).split())})


def brief(row: dict[str, Any]) -> dict[str, Any]:
    """What Tune hears of a validation."""
    return {name: row[name] for name in ("step", "loss_val", "elapsed_s")}


class TuneReport:
    """A trial's Report: validations go to Tune."""

    def __init__(self) -> None:
        self.last: dict[str, Any] = {}

    def progress(self, step: int) -> None:
        """Silent."""

    def validated(self, row: dict[str, Any]) -> None:
        """Report what the scheduler judges by."""
        self.last = brief(row)
        ray.tune.report(self.last)

    def say(self, line: str) -> None:
        """Silent: alarms are in the run's own records."""


class Book(Searcher):
    """Tells Tune which trial is next, and keeps the search folder's rows; all of it in the command's process."""

    def __init__(self, config: TuneConfig, space: Space, folder: SearchFolder, progress: Progress) -> None:
        super().__init__(metric="loss_val", mode="min")
        self._config, self._space, self._folder, self._progress = config, space, folder, progress
        self.trials = folder.trials()
        self._waiting = [trial for trial in self.trials if trial.status == RUNNING and not trial.figures]
        self._numbers: dict[str, int] = {}  # of the running trials, by Tune's names for them
        progress.show(self.trials)

    @property
    def num_left(self) -> int:
        """Trials that are yet to begin, or to be gone on with."""
        return self._config.num_trials - sum(trial.status != RUNNING for trial in self.trials)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """A trial that was interrupted, else a new one; in a population, where all have begun and none is under way,
        one that goes on. None where others are waited for."""
        if not self._waiting:
            self._refill()
        if not self._waiting:
            return None if self._is_under_way() else Searcher.FINISHED  # type: ignore[return-value]  # as documented
        trial = self._waiting.pop(0)
        self._numbers[trial_id] = trial.number
        return {"trial": trial}

    def _refill(self) -> None:
        if following := next_trial(self._config, self._space, self.trials):
            self.trials.append(following)
            self._waiting = [following]
            self._folder.write_trials(self.trials)
        elif self._config.population and not self._is_under_way():
            self._exchange()

    def _is_under_way(self) -> bool:
        """Whether a trial of a population is in the middle of a leg."""
        under_way = [self.trials[number] for number in self._numbers.values()]
        return self._config.population and any(not trial.is_baseline for trial in under_way)

    def _exchange(self) -> None:
        """Between two legs. The rows are written last: a command that is killed before does the very same again."""
        members = [trial for trial in self.trials if trial.status == RUNNING and trial.figures]
        self._waiting = exchange(self._config, self._space, members)
        for trial in self._waiting:
            source = trial.legs[-1].went_on_from
            if source is not None:
                self._folder.take_over(trial, self.trials[source])
                reached = f"trial {trial.number} goes on from trial {source}'s checkpoint of step {trial.step}"
                self._progress.say(f"{reached} ({format_settings(trial)})")
        for trial in self._waiting:
            self.trials[trial.number] = trial
        self._folder.write_trials(self.trials)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A validation, which the console shows."""
        self._progress.step(self._numbers[trial_id], result["step"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The row is written."""
        number = self._numbers.pop(trial_id)
        outcome = _outcome(result or {}, error, self._config.loop.steps)
        self.trials[number] = dataclasses.replace(self.trials[number], **outcome)
        self._folder.write_trials(self.trials)
        self._progress.show(self.trials)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the rows are in the search folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


def _outcome(result: dict[str, Any], has_died: bool, num_steps: int) -> dict[str, Any]:
    """What is to be changed in a trial's row, by its last report."""
    reached = {"step": result.get("step", 0), "seconds": round(result.get("elapsed_s", 0.0), 1)}
    if has_died:
        why = f"started {MAX_RESTARTS + 1} times, its process died or raised what stands in {RAY_FILES}/"
        return {"status": FAILED, **reached, "error": why}
    if "error" in result:
        return {"status": FAILED, **reached, "error": result["error"]}
    if "figures" not in result:
        return {"status": STOPPED, **reached}
    status = FINISHED if result["step"] == num_steps else RUNNING  # at the end of a leg
    return {"status": status, **reached, "figures": from_json(json.loads(result["figures"]))}
