"""A run under Ray Train: one process per worker, DistributedDataParallel between them, restarts after a death."""

import contextlib
import os
import sys
import threading
import time
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor, nn
from tqdm import tqdm

from srgan_ray.config import RunConfig, from_dict, to_dict
from srgan_ray.data.storage import Folder, below
from srgan_ray.errors import InputError
from srgan_ray.models.memory import WORKER_ENVIRONMENT
from srgan_ray.on_ray.cluster import share_for
from srgan_ray.on_ray.gloo import TorchOnNodes
from srgan_ray.training.checkpoint import last_step as last_saved
from srgan_ray.training.checkpoint import sealed
from srgan_ray.training.folder import CHECKPOINTS, RAY_FILES, RunFolder
from srgan_ray.training.loop import Report, format_row
from srgan_ray.training.run import RanksDiffer, run
from srgan_ray.training.stages import Worker

Note = tuple[str, Any]
MAX_RESTARTS = 3
REDRAW_S = 0.5
RESIZE_CHECK_S = 15  # an elastic run looks so often whether nodes have come
PEER_TIMEOUT_S = 3600  # ranks wait while rank 0 writes down what was validated


def fit(config: RunConfig, report: Report | None = None, num_cpus: int = 0, last_step: int = 0) -> dict[str, Any]:
    """Run, or go on with, what `config` says up to `last_step` (0: all of it); returns a summary. Without a `report` it
    shows a progress bar and a line for each validation. Each worker gets `num_cpus`; 0: as many as there are for all.

    Raises InputError where the cluster has too few CPUs, where another command is at work in the run folder, where a
    worker gives up with one, and where workers died more than MAX_RESTARTS times between two checkpoints.
    """
    folder, checkpoints = RunFolder(config.out), Folder(below(config.out, CHECKPOINTS))
    most_cpus, use_gpu = share_for(config.worker_counts)  # now: later some of the nodes may be gone for a while
    with folder.locked():
        bar = contextlib.nullcontext(report) if report else ProgressBar(config.loop.steps, last_saved(checkpoints))
        with folder.reporting(), bar as shown:
            _fit_while_it_advances(config, checkpoints, num_cpus or most_cpus, use_gpu, last_step, shown)
        return folder.summary()


def _fit_while_it_advances(
    config: RunConfig, checkpoints: Folder, num_cpus: int, use_gpu: bool, last_step: int, report: Report
) -> None:
    """Ray Train counts the deaths of a whole run: where spot machines come and go, it would give up in the end."""
    while True:
        before = sealed(checkpoints)
        try:
            return _fit_and_tell(*_make_trainer(config, num_cpus, use_gpu, last_step), report)
        except TrainingFailedError as error:
            if sealed(checkpoints)[-1:] <= before[-1:]:
                raise InputError(
                    f"workers died {MAX_RESTARTS + 1} times without a new checkpoint, at last of: {_cause(error)}; the "
                    "same command goes on"
                ) from error
            report.say(f"workers died {MAX_RESTARTS + 1} times; going on, since there are new checkpoints")


def _cause(error: TrainingFailedError) -> str:
    """Type and last line of what the first worker raised, or of what Ray says where it was gone."""
    deaths = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []
    cause = deaths[0] if deaths else error
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or ['no message'])[-1]}"


def _make_trainer(config: RunConfig, num_cpus: int, use_gpu: bool, last_step: int) -> tuple[TorchTrainer, Any]:
    if config.min_workers:  # Ray Train would wait 60 s for the nodes that have gone
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()  # workers' nodes may go
    return TorchTrainer(
        _train_loop_per_worker,
        train_loop_config={"config": to_dict(config), "num_threads": num_cpus, "board": board, "last_step": last_step},
        torch_config=TorchOnNodes(timeout_s=PEER_TIMEOUT_S),
        scaling_config=ray.train.ScalingConfig(  # type: ignore[call-arg]  # statically Ray Train v1's, as below
            num_workers=(config.min_workers, config.num_workers)  # type: ignore[arg-type]
            if config.min_workers
            else config.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": num_cpus, **({"GPU": 1} if use_gpu else {})},
            elastic_resize_monitor_interval_s=RESIZE_CHECK_S,
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]
            name=RAY_FILES,
            storage_path=config.out,
            failure_config=ray.train.FailureConfig(max_failures=MAX_RESTARTS),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    ), board


def _train_loop_per_worker(settings: dict[str, Any]) -> None:
    torch.set_num_threads(settings["num_threads"])
    context = ray.train.get_context()
    worker = Worker(
        context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device(), _wrap, _gather, _average
    )
    config, board = from_dict(settings["config"]), settings["board"]
    try:
        run(config, worker, BoardReport(board, worker.rank), settings["last_step"])
    except (InputError, FloatingPointError, RanksDiffer) as error:  # would be the same after a restart
        ray.get(board.give_up.remote(str(error)))


def _wrap(network: nn.Module) -> nn.Module:
    """Data-parallel; on GPUs BatchNorm takes its statistics over the whole batch, which it cannot on CPUs.

    The wrapper must not broadcast them: between the discriminator's two forward passes that would change in place what
    the backward pass still needs. The loop averages them before anything is validated or saved.
    """
    if next(network.parameters()).is_cuda:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return ray.train.torch.prepare_model(
        network, move_to_device=False, parallel_strategy_kwargs={"broadcast_buffers": False}
    )


def _is_alone() -> bool:
    """A lone worker must not call on gloo, whose thread would open a second pool of OpenMP threads: with more of those
    than CPUs, libgomp puts waiting threads to sleep at once, and each step took 1.3 times as long."""
    return not dist.is_initialized() or dist.get_world_size() == 1


def _gather(value: Any) -> list[Any]:
    if _is_alone():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _average(tensors: list[Tensor]) -> None:
    if not _is_alone():
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()


class BoardReport:
    """A worker's Report: what rank 0 tells goes to the board."""

    def __init__(self, board: Any, rank: int) -> None:
        self._board, self._rank = board, rank
        self._last_told = 0.0

    def progress(self, step: int) -> None:
        """Tell the board, now and then, how far it is."""
        if self._rank == 0 and time.monotonic() - self._last_told > REDRAW_S:
            self._board.progress.remote(step)
            self._last_told = time.monotonic()

    def validated(self, row: dict[str, Any]) -> None:
        """Give the board the row of a validation."""
        if self._rank == 0:
            self._board.note.remote("validated", row)

    def say(self, line: str) -> None:
        """Give the board a line."""
        if self._rank == 0:
            self._board.note.remote("say", line)


class Board:
    """Where workers leave what the driver's Report is to be told."""

    def __init__(self) -> None:
        self._step = 0
        self._notes: list[Note] = []
        self._failure = ""

    def progress(self, step: int) -> None:
        """So many steps are done."""
        self._step = step

    def note(self, method: str, value: Any) -> None:
        """What a method of the Report is to be called with, once."""
        self._notes.append((method, value))

    def give_up(self, failure: str) -> None:
        """Why no restart would help."""
        self._failure = self._failure or failure

    def take(self) -> tuple[int, list[Note], str]:
        """The steps done, the notes since the last call, and the reason to give up, if there is one."""
        notes, self._notes = self._notes, []
        return self._step, notes, self._failure


class ProgressBar:
    """A Report on standard error."""

    def __init__(self, num_steps: int, done: int) -> None:
        self._num_steps = num_steps
        self._bar = tqdm(total=num_steps, initial=done, unit=" steps", disable=None)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def progress(self, step: int) -> None:
        """Move the bar."""
        self._bar.n = step
        self._bar.refresh()

    def validated(self, row: dict[str, Any]) -> None:
        """Write the line of a validation above the bar."""
        self.say(format_row(row, self._num_steps))

    def say(self, line: str) -> None:
        """Write the line above the bar."""
        self._bar.write(line, file=sys.stderr)


def _fit_and_tell(trainer: TorchTrainer, board: Any, report: Report) -> None:
    """Fit in a thread, where Ray Train leaves Ctrl-C alone, and pass the board's news on until it is done."""
    failure: list[BaseException] = []

    def fit_and_keep_failure() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    fitting = threading.Thread(target=fit_and_keep_failure, daemon=True)
    fitting.start()
    while fitting.is_alive():
        fitting.join(REDRAW_S)
        _tell(board, report)
    _tell(board, report)
    if failure:
        raise failure[0]


def _tell(board: Any, report: Report) -> None:
    """Raises InputError where the workers gave up; those still at work end with the connection to Ray."""
    step, notes, failure = ray.get(board.take.remote())
    for method, value in notes:
        getattr(report, method)(value)
    report.progress(step)
    if failure:
        raise InputError(failure)
