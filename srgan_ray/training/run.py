"""A run, from its config to its folder; the same under Ray Train, in one plain process, and in a test."""

import dataclasses
import functools
from pathlib import Path

import torch

from srgan_ray.config import RunConfig, TrainConfig, to_dict
from srgan_ray.data.feed import Feed, check_feed
from srgan_ray.data.manifest import read_manifest
from srgan_ray.data.storage import absolute, below
from srgan_ray.models.artifact import RELEASED
from srgan_ray.models.generator import Generator
from srgan_ray.models.memory import keep_freed_memory
from srgan_ray.training.checkpoint import Checkpoints
from srgan_ray.training.folder import CHECKPOINTS, RunFolder
from srgan_ray.training.loop import Report, train
from srgan_ray.training.stages import Worker, build_stage, check_stage, load_init
from srgan_ray.training.state import TrainState
from srgan_ray.training.validation import Validation


class RanksDiffer(RuntimeError):
    """Data-parallel training has come apart: whoever knows of it should stop the run, not restart a worker."""


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config as processes with other working directories need it."""
    if isinstance(config, TrainConfig):
        weights = str(Path(config.vgg_weights).resolve()) if Path(config.vgg_weights).is_file() else config.vgg_weights
        faithful = _absolute_generator(config.fidelity_generator)
        config = dataclasses.replace(config, fidelity_generator=faithful, vgg_weights=weights)
    init = _absolute_generator(config.init)
    return dataclasses.replace(config, data=absolute(config.data), out=absolute(config.out), init=init)


def _absolute_generator(given: str) -> str:
    return given if given in ("", *RELEASED) else absolute(given)


def check_inputs(config: RunConfig) -> None:
    """Raise InputError for what a run would stumble over while reading: shards, files to begin from."""
    for num_workers in config.worker_counts:
        check_feed(config.data, config.crops, num_workers)
    check_stage(config)


def check_run(config: RunConfig) -> None:
    """As `check_inputs`, and for another run in its folder."""
    check_inputs(config)
    RunFolder(config.out).check(config, read_manifest(config.data).data_hash)


def run(config: RunConfig, worker: Worker, report: Report, last_step: int = 0) -> None:
    """Train from the newest checkpoint, or from the beginning, to `last_step` (0: of the whole run), after which it is
    validated and saved. Every rank validates its share; rank 0 fills the run folder.

    Raises RuntimeError where the ranks found unlike checkpoints, which a restart may help.
    """
    last_step = last_step or config.loop.steps
    keep_freed_memory()
    stage = build_stage(config, worker)
    torch.manual_seed(config.crops.seed)
    with Checkpoints(below(config.out, CHECKPOINTS), to_dict(config), report.say) as checkpoints:
        if saved := checkpoints.latest():
            stage.state.load_state_dict(saved)
        if len(begins := set(worker.gather(stage.state.step))) > 1:  # one could not read what others could
            raise RuntimeError(f"the ranks begin after unlike steps, {begins}")
        feed = Feed(config.data, config.crops, worker.rank, worker.num_workers, torch.get_num_threads())
        train(
            stage.state,
            stage.take_step,
            feed.batches(stage.state.step + 1, last_step),
            functools.partial(_synchronise, stage.state, worker),
            Validation(config, stage, worker, report),
            checkpoints.save if worker.rank == 0 else lambda _: None,
            report,
            config.loop,
            last_step,
        )


def load_latest(config: TrainConfig) -> Generator:
    """The averaged generator of a run's newest checkpoint, of which there is one."""
    with Checkpoints(below(config.out, CHECKPOINTS), to_dict(config), lambda _: None) as checkpoints:
        saved = checkpoints.latest()
    assert saved
    generator = load_init(config)
    generator.load_state_dict(saved["averaged_generator"])
    return generator


def _synchronise(state: TrainState, worker: Worker) -> None:
    """BatchNorm's statistics and the losses are averaged over the ranks; weights must be the same on all already.

    Raises RanksDiffer where they are not.
    """
    worker.average(state.per_rank)
    norms = worker.gather(state.weight_norms())
    if any(other != norms[0] for other in norms):
        raise RanksDiffer(
            f"step {state.step}: the ranks' weights differ, their norms are {norms}; the same command goes on from the "
            "last checkpoint"
        )
