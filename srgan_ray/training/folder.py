"""The run folder, by path or URI: config, metrics, TensorBoard events, sample pictures, best generator, report.

Written by rank 0 alone.
"""

import contextlib
import json
import re
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from srgan_ray.config import RunConfig, flatten, from_dict, to_dict
from srgan_ray.data import images
from srgan_ray.data.manifest import REPORT, versions
from srgan_ray.data.storage import ASIDE, LOCK, Folder, below, is_uri, split
from srgan_ray.errors import InputError
from srgan_ray.models.artifact import FILE_NAME, load_generator
from srgan_ray.training.checkpoint import last_step
from srgan_ray.training.report import render_run_report

CONFIG, METRICS, SAMPLES, CHECKPOINTS = "config.json", "metrics.jsonl", "samples", "checkpoints"
RAY_FILES = "ray"  # what Ray Train itself writes down
UNFINISHED = {CHECKPOINTS, RAY_FILES, LOCK, CONFIG + ASIDE}  # what a run killed before its first step may leave
SAMPLE_NAME = re.compile(SAMPLES + r"/(?P<photograph>.+)_step_(?P<step>\d+)\.png")
# What may be another when a run goes on; everything else would make it another run.
FREE_TO_CHANGE = {
    "data",
    "out",
    "num_workers",
    "min_workers",
    "loop.steps",
    "loop.evaluate_every",
    "loop.checkpoint_every",
}


class RunFolder:
    """The files of a run. Making the object touches nothing."""

    def __init__(self, location: str) -> None:
        self._folder = Folder(location)
        self.generator_file = below(self._folder.location, FILE_NAME)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return split(self._folder.location)[1]

    def check(self, config: RunConfig, data_hash: str) -> None:
        """Raise InputError where the folder holds something else than a run of this config, or one that is over."""
        if not self._folder.has(CONFIG):
            if {name.split("/")[0] for name in self._folder.names()} - UNFINISHED:
                raise InputError(f"--out {self._folder} is not empty and holds no run; wanted a new or a run's folder")
            return
        now = {"config": to_dict(config), "data_hash": data_hash}
        check_same(f"--out {self._folder} holds a run", self._recorded(), now, FREE_TO_CHANGE)
        reached, steps = last_step(self._checkpoints), config.loop.steps
        is_finished = steps == reached and steps in [row["step"] for row in self.metrics()]
        if steps <= reached and not is_finished:
            raise InputError(f"--steps {steps}: the run in --out {self._folder} is at step {reached}; wanted more")

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep other commands of this machine out of the folder. InputError where one is at work in it."""
        return self._folder.locked()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Raise InputError where what is done inside fails for lack of room or permission."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"--out {self._folder} cannot be written to: {error.strerror or error}; "
                "wanted room and permission: the same command goes on then"
            ) from error

    def open(self, config: RunConfig, data_hash: str, stamps: Mapping[str, str], step: int) -> None:
        """Begin to write at `step`: what was recorded after it is dropped, since it will come again.

        Raises InputError where the run was begun with files of other `stamps`.
        """
        recorded = self._recorded() if self._folder.has(CONFIG) else {}
        for name, stamp in stamps.items():
            if recorded.get(name, stamp) != stamp:
                raise InputError(
                    f"--{name.replace('_', '-')}: --out {self._folder} holds a run with {recorded[name]}, now {stamp}; "
                    "wanted the same file, or another --out"
                )
        origin = {"data_hash": data_hash, **stamps, "versions": versions()}
        self._folder.write(CONFIG, (json.dumps({"config": to_dict(config), **origin}, indent=2) + "\n").encode())
        self._rows = [row for row in self.metrics() if row["step"] <= step]
        self._write_rows()
        self._events = _Events(self._folder, step)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows recorded so far."""
        if not self._folder.has(METRICS):
            return []
        return [json.loads(line) for line in self._folder.read(METRICS).splitlines()]

    def settled_metrics(self) -> list[dict[str, Any]]:
        """The rows up to the newest checkpoint: those after it come again when the run goes on."""
        step = last_step(self._checkpoints)
        return [row for row in self.metrics() if row["step"] <= step]

    def summary(self) -> dict[str, Any]:
        """What a command says at its end: where the run is and its last validation."""
        last = {key: value for key, value in self.metrics()[-1].items() if isinstance(value, (int, float))}
        return {"run": str(self._folder), "generator": self.generator_file, **last}

    def record(self, row: dict[str, Any], samples: Mapping[str, np.ndarray]) -> None:
        """Write a validation down: pictures into `samples/`, `uint8` RGB (H, W, 3) by the name of their photograph, a
        row into `metrics.jsonl`, and both into TensorBoard."""
        encoded = {name: images.encode(picture, "png") for name, picture in samples.items()}
        for name, content in encoded.items():
            self._folder.write(f"{SAMPLES}/{name}_step_{row['step']:08d}.png", content)
        self._events.add(row, encoded)
        self._rows.append(row)
        self._write_rows()

    def write_report(self) -> None:
        """Write `report.html`, made of what the folder holds after a validation."""
        origin = self._recorded()
        config, (_, card) = from_dict(origin.pop("config")), load_generator(self.generator_file)
        page = render_run_report(config, origin, card, self.metrics(), self._samples(), self._folder.read)
        self._folder.write(REPORT, page.encode())

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Write the report after what is done inside; where that ends with an error, of what there is by then."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(InputError, OSError):  # a full disk: the error inside is the one to be told
                if self.metrics():
                    self.write_report()
            raise
        self.write_report()

    def best_samples(self) -> dict[str, bytes]:
        """The pictures of the best validation, encoded, by photograph."""
        step = load_generator(self.generator_file)[1].step
        return {name: self._folder.read(files[step]) for name, files in self._samples().items()}

    def take_over(self, other: "RunFolder") -> None:
        """Hold what another run holds, but for its config: what goes on here goes on from there. Cut off, it can be
        repeated."""
        theirs = other._taken_over()
        self._folder.delete(self._taken_over() - theirs)
        for name in sorted(theirs):
            self._folder.write(name, other._folder.read(name))

    @property
    def _checkpoints(self) -> Folder:
        return Folder(below(self._folder.location, CHECKPOINTS))

    def _recorded(self) -> dict[str, Any]:
        """What `config.json` holds. Raises InputError where that is not a run's."""
        try:
            recorded = json.loads(self._folder.read(CONFIG))
        except ValueError:
            recorded = None
        is_of_a_run = isinstance(recorded, dict) and isinstance(recorded.get("config"), dict)
        if not is_of_a_run or "data_hash" not in recorded:
            raise InputError(
                f"--out {self._folder} holds a {CONFIG} of something else, or a damaged one; wanted a new or a run's "
                "folder"
            )
        return dict(recorded)

    def _taken_over(self) -> set[str]:
        return {name for name in self._folder.names() if name.split("/")[0] not in (CONFIG, LOCK, RAY_FILES)}

    def _write_rows(self) -> None:
        self._folder.write(METRICS, "".join(json.dumps(row) + "\n" for row in self._rows).encode())

    def _samples(self) -> dict[str, dict[int, str]]:
        """The files in `samples/` by photograph and step."""
        samples: dict[str, dict[int, str]] = {}
        for name in self._folder.names():
            if found := SAMPLE_NAME.fullmatch(name):
                samples.setdefault(found["photograph"], {})[int(found["step"])] = name
        return samples


def check_same(found: str, recorded: Mapping[str, Any], now: Mapping[str, Any], free: Set[str]) -> None:
    """Raise InputError where what was `recorded` has another `config`, but for settings that are free to change, or
    another `data_hash`, than what is to go on there now. `found` says what holds the record."""
    if recorded["data_hash"] != now["data_hash"]:
        raise InputError(
            f"{found} of the data {recorded['data_hash']}; --data {now['config']['data']} holds {now['data_hash']}: "
            "wanted the same data, or another --out"
        )
    before = flatten(recorded["config"])
    for key, value in flatten(now["config"]).items():
        if key not in free and before.get(key) != value:
            raise InputError(
                f"{found} with {key} = {before.get(key)}, now {value}; wanted the same setting, or another --out"
            )


class _Events:
    """TensorBoard's file of a run. To object storage, where nothing can be added to a file, a local one is copied."""

    def __init__(self, folder: Folder, step: int) -> None:
        self._folder = folder
        self._aside = tempfile.TemporaryDirectory() if is_uri(folder.location) else None
        self._writer = SummaryWriter(self._aside.name if self._aside else folder.location, purge_step=step + 1)
        weakref.finalize(self, self._writer.close)  # else its thread stays where a process has one run after another

    def add(self, row: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
        """The numbers of a row, and pictures of its step as PNG."""
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self._writer.add_scalar(name, value, row["step"])
        for name, encoded in pictures.items():  # add_image would encode them again: 0.4 s of a validation's 1.1
            width, height = images.read_header(encoded)[1:]
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
            summary = Summary(value=[Summary.Value(tag=name, image=image)])
            self._writer._get_file_writer().add_summary(summary, row["step"])
        self._writer.flush()
        if self._aside:
            for path in Path(self._aside.name).iterdir():
                self._folder.write(path.name, path.read_bytes())
