"""A run under Ray Train: one process per worker, DistributedDataParallel between them, restarts after a death."""

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer
from torch import nn
from tqdm import tqdm

from srgan_ray.config import RunConfig, from_dict, to_dict
from srgan_ray.on_ray.cluster import share_for
from srgan_ray.training.checkpoint import NUM_KEPT, checkpoint_name, write_checkpoint
from srgan_ray.training.folder import CHECKPOINTS, RunFolder
from srgan_ray.training.loop import format_row
from srgan_ray.training.run import run
from srgan_ray.training.stages import Worker
from srgan_ray.training.state import TrainState

MAX_RESTARTS = 3
REDRAW_S = 0.5


def fit(config: RunConfig) -> dict[str, Any]:
    """Run, or go on with, what `config` says, with a progress bar and a line for each validation; returns a summary.

    Raises InputError where the cluster has too few CPUs, and ray.train's TrainingFailedError where a worker failed
    more than MAX_RESTARTS times.
    """
    num_cpus, use_gpu = share_for(config.num_workers)
    board = ray.remote(num_cpus=0)(Board).remote()
    trainer = TorchTrainer(
        _train_loop_per_worker,
        train_loop_config={"config": to_dict(config), "num_threads": num_cpus, "board": board},
        torch_config=TorchConfig(timeout_s=3600),  # ranks wait while rank 0 validates
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": num_cpus, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # statically this is the class of Ray Train v1
            name=CHECKPOINTS,
            storage_path=str(Path(config.out).resolve()),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=NUM_KEPT),
            failure_config=ray.train.FailureConfig(max_failures=MAX_RESTARTS),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    _fit_and_show(trainer, board, config.loop.steps)
    return RunFolder(config.out).summary()


def _train_loop_per_worker(settings: dict[str, Any]) -> None:
    torch.set_num_threads(settings["num_threads"])
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device(), _wrap)
    config = from_dict(settings["config"])
    report = RayReport(settings["board"], worker, config)
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            run(config, worker, report, Path(folder))
    else:
        run(config, worker, report, None)


def _wrap(network: nn.Module) -> nn.Module:
    # Rank 0's BatchNorm statistics are the ones that are kept; broadcasting them between the discriminator's two
    # forward passes would change in place what the backward pass still needs.
    return ray.train.torch.prepare_model(
        network, move_to_device=False, parallel_strategy_kwargs={"broadcast_buffers": False}
    )


class RayReport:
    """A worker's Report: progress to the driver's board, checkpoints to Ray Train's storage in the run folder."""

    def __init__(self, board: Any, worker: Worker, config: RunConfig) -> None:
        self._board, self._worker, self._config = board, worker, config
        self._last_told = 0.0

    def progress(self, step: int) -> None:
        """Tell the board, now and then, how far rank 0 is."""
        if self._worker.rank == 0 and time.monotonic() - self._last_told > REDRAW_S:
            self._board.progress.remote(step)
            self._last_told = time.monotonic()

    def evaluated(self, row: dict[str, Any]) -> None:
        """Give the board a line to show."""
        self._board.show.remote(format_row(row, self._config.loop.steps), row["step"])

    def checkpoint(self, state: TrainState) -> None:
        """Save what rank 0 holds; for the others a barrier."""
        if self._worker.rank != 0:
            ray.train.report({"step": state.step})
            return
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder), state.state_dict(), to_dict(self._config))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"step": state.step}, checkpoint, checkpoint_dir_name=checkpoint_name(state.step))


class Board:
    """Where a worker leaves its progress for the driver to show."""

    def __init__(self) -> None:
        self._step = 0
        self._lines: list[str] = []

    def progress(self, step: int) -> None:
        """So many steps are done."""
        self._step = step

    def show(self, line: str, step: int) -> None:
        """A line to print once."""
        self._lines.append(line)
        self._step = step

    def take(self) -> tuple[int, list[str]]:
        """The steps done, and the lines since the last call."""
        lines, self._lines = self._lines, []
        return self._step, lines


def _fit_and_show(trainer: TorchTrainer, board: Any, num_steps: int) -> None:
    """Fit in a thread, where Ray Train leaves Ctrl-C alone, and show the board's news until it is done."""
    failure: list[BaseException] = []

    def fit_and_keep_failure() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    fitting = threading.Thread(target=fit_and_keep_failure, daemon=True)
    with tqdm(total=num_steps, unit=" steps", disable=None) as bar:
        fitting.start()
        while fitting.is_alive():
            fitting.join(REDRAW_S)
            _show(board, bar)
        _show(board, bar)
    if failure:
        raise failure[0]


def _show(board: Any, bar: Any) -> None:
    bar.n, lines = ray.get(board.take.remote())
    for line in lines:
        bar.write(line, file=sys.stderr)
    bar.refresh()
