"""The run folder: config, metrics, TensorBoard events, sample pictures, the best generator, the report.

Written by rank 0 alone.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from srgan_ray.config import RunConfig, from_dict, to_dict
from srgan_ray.data import images
from srgan_ray.data.manifest import REPORT, versions
from srgan_ray.errors import InputError
from srgan_ray.models.artifact import FILE_NAME, read_card
from srgan_ray.training.report import render_run_report

CHECKPOINTS = "checkpoints"
LOCK = "lock"
RAY_FILES = "ray"  # what Ray Train itself writes down
UNFINISHED = {CHECKPOINTS, RAY_FILES, LOCK, "config.writing"}  # what a run killed before its first step may leave
SAMPLE_NAME = re.compile(r"(?P<photograph>.+)_step_(?P<step>\d+)\.png")
# What may be another when a run goes on; everything else would make it another run.
FREE_TO_CHANGE = {
    "data",
    "out",
    "num_workers",
    "min_workers",
    "loop.steps",
    "loop.evaluate_every",
    "loop.checkpoint_every",
    "loop.max_val_photographs",
}


class RunFolder:
    """The files of a run. Making the object touches nothing."""

    def __init__(self, folder: str) -> None:
        self.path = Path(folder)
        self._config_file = self.path / "config.json"
        self._metrics_file = self.path / "metrics.jsonl"
        self.generator_file = self.path / FILE_NAME

    def check(self, config: RunConfig, data_hash: str) -> None:
        """Raise InputError where the folder holds something else than a run of this config."""
        if not self.path.exists():
            return
        if not self._config_file.is_file():
            if not self.path.is_dir() or {path.name for path in self.path.iterdir()} - UNFINISHED:
                raise InputError(f"--out {self.path} is not empty and holds no run; wanted a new or a run's folder")
            return
        recorded = json.loads(self._config_file.read_text())
        if recorded["data_hash"] != data_hash:
            raise InputError(
                f"--data {config.data} holds the data {data_hash}; the run in --out {self.path} began with "
                f"{recorded['data_hash']}: wanted the same data, or another --out"
            )
        before = _flatten(recorded["config"])
        for key, value in _flatten(to_dict(config)).items():
            if key not in FREE_TO_CHANGE and before.get(key) != value:
                raise InputError(
                    f"--out {self.path} holds a run with {key} = {before.get(key)}, now {value}; "
                    "wanted the same setting, or another --out"
                )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other commands of this machine out of it. InputError where one is at work in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / LOCK, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back by the system, however the process ends
            except BlockingIOError as error:
                raise InputError(f"--out {self.path}: another command is at work on this run; wait for it") from error
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Raise InputError where what is done inside fails for lack of room or permission."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"--out {self.path} cannot be written to: {error.strerror or error}; "
                "wanted room and permission: the same command goes on then"
            ) from error

    def open(self, config: RunConfig, data_hash: str, vgg_stamp: str, step: int) -> None:
        """Begin to write at `step`: what was recorded after it is dropped, since it will come again."""
        self.path.mkdir(parents=True, exist_ok=True)
        origin = {"data_hash": data_hash, "vgg_weights": vgg_stamp, "versions": versions()}
        _write_whole(self._config_file, json.dumps({"config": to_dict(config), **origin}, indent=2) + "\n")
        kept = (json.dumps(row) + "\n" for row in self.metrics() if row["step"] <= step)
        _write_whole(self._metrics_file, "".join(kept))
        self._events = SummaryWriter(str(self.path), purge_step=step + 1)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows recorded so far; a last line that was cut off by a kill is left out."""
        if not self._metrics_file.is_file():
            return []
        return [json.loads(line) for line in self._metrics_file.read_text().splitlines(True) if line.endswith("\n")]

    def summary(self) -> dict[str, Any]:
        """What a command says at its end: where the run is and its last validation."""
        last = {key: value for key, value in self.metrics()[-1].items() if isinstance(value, (int, float))}
        return {"run": str(self.path), "generator": str(self.generator_file), **last}

    def record(self, row: dict[str, Any]) -> None:
        """Add a row to `metrics.jsonl`, and its numbers to TensorBoard."""
        with open(self._metrics_file, "a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self._events.add_scalar(name, value, row["step"])
        self._events.flush()

    def add_sample(self, step: int, name: str, picture: np.ndarray) -> None:
        """Write a picture into `samples/` and TensorBoard: `uint8` RGB (H, W, 3)."""
        path = self.path / "samples" / f"{name}_step_{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(images.encode(picture, "png"))
        self._events.add_image(name, picture, step, dataformats="HWC")

    def write_report(self) -> None:
        """Write `report.html`, made of what the folder holds after a validation."""
        origin = json.loads(self._config_file.read_text())
        config, card = from_dict(origin.pop("config")), read_card(self.generator_file)
        _write_whole(self.path / REPORT, render_run_report(config, origin, card, self.metrics(), self._samples()))

    def _samples(self) -> dict[str, dict[int, Path]]:
        """The files in `samples/` by photograph and step."""
        samples: dict[str, dict[int, Path]] = {}
        for path in sorted((self.path / "samples").glob("*.png")):
            if found := SAMPLE_NAME.fullmatch(path.name):
                samples.setdefault(found["photograph"], {})[int(found["step"])] = path
        return samples


def _write_whole(path: Path, text: str) -> None:
    aside = path.with_suffix(".writing")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
