"""A run in this very process, without Ray: for tests, for machines that have none, and to measure what Ray costs."""

import sys
from typing import Any

from srgan_ray.config import RunConfig
from srgan_ray.training.folder import RunFolder
from srgan_ray.training.loop import Report, format_row
from srgan_ray.training.run import run
from srgan_ray.training.stages import single_worker


def fit(config: RunConfig, report: Report | None = None, last_step: int = 0) -> dict[str, Any]:
    """Run, or go on with, what `config` says up to `last_step` (0: all of it), as the only worker; returns a summary.
    Without a `report` it prints."""
    folder = RunFolder(config.out)
    with folder.locked():
        with folder.reporting():
            run(config, single_worker(), report or PlainReport(config.loop.steps), last_step)
        return folder.summary()


class PlainReport:
    """A Report that prints lines to standard error."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps

    def progress(self, step: int) -> None:
        """Silent."""

    def validated(self, row: dict[str, Any]) -> None:
        """Print the line."""
        self.say(format_row(row, self._num_steps))

    def say(self, line: str) -> None:
        """Print the line."""
        print(line, file=sys.stderr)
