"""A run in this very process, without Ray: for tests, for machines that have none, and to measure what Ray costs."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from srgan_ray.config import RunConfig, to_dict
from srgan_ray.models.precision import best_device
from srgan_ray.training.checkpoint import NUM_KEPT, checkpoint_name, write_checkpoint
from srgan_ray.training.folder import CHECKPOINTS, RunFolder
from srgan_ray.training.loop import format_row
from srgan_ray.training.run import run
from srgan_ray.training.stages import Worker
from srgan_ray.training.state import TrainState


def fit(config: RunConfig) -> dict[str, Any]:
    """Run, or go on with, what `config` says, as the only worker; returns a summary."""
    report = PlainReport(config)
    run(config, Worker(0, 1, best_device(), lambda network: network), report, report.latest_checkpoint())
    return RunFolder(config.out).summary()


class PlainReport:
    """A Report that prints lines to standard error and keeps the last checkpoints in the run folder."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._folder = Path(config.out) / CHECKPOINTS

    def latest_checkpoint(self) -> Path | None:
        """The checkpoint to go on from."""
        return max(self._folder.glob("step_*"), default=None)

    def progress(self, step: int) -> None:
        """Silent."""

    def evaluated(self, row: dict[str, Any]) -> None:
        """Print the line."""
        print(format_row(row, self._config.loop.steps), file=sys.stderr)

    def checkpoint(self, state: TrainState) -> None:
        """Write aside, rename, drop the oldest."""
        name = checkpoint_name(state.step)
        aside = self._folder / f"writing_{name}"
        shutil.rmtree(aside, ignore_errors=True)
        write_checkpoint(aside, state.state_dict(), to_dict(self._config))
        os.replace(aside, self._folder / name)
        for old in sorted(self._folder.glob("step_*"))[:-NUM_KEPT]:
            shutil.rmtree(old)
