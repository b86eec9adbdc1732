"""Checkpoints of a run, on local disk or object storage: `step_N/state.pt`, then `step_N/checkpoint.json`, its seal.

The seal is written last and holds the hash of the state; a checkpoint without it, or with another content, is none.
"""

import hashlib
import io
import json
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from srgan_ray.data.storage import Folder
from srgan_ray.errors import InputError

STATE, SEAL = "state.pt", "checkpoint.json"
PREFIX = "step_"
NUM_KEPT = 2  # beside the best

Say = Callable[[str], None]


class Checkpoints:
    """The checkpoints in a folder (path or URI). `say` is told in one line what had to be passed over.

    As a context manager it ends with the last checkpoint written, or raises InputError where that failed.
    """

    def __init__(self, location: str, config: dict[str, Any], say: Say) -> None:
        self._folder, self._config, self._say = Folder(location), config, say
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._failure: InputError | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._wait()
        finally:
            self._executor.shutdown()
        if self._failure and kind is None:
            raise self._failure

    def latest(self) -> dict[str, Any] | None:
        """The newest whole state, on the CPU; None where there is no checkpoint yet. Those that are broken or cannot be
        read are told and skipped.

        Raises InputError where there are checkpoints, but no whole one.
        """
        names = sealed(self._folder)
        for name in reversed(names):
            try:
                return self._read(name)
            except InputError as error:
                self._say(str(error))
        if names:
            raise InputError(
                f"{self._folder} holds no whole checkpoint; remove it to begin the run anew, or make it readable"
            )
        return None

    def save(self, state: dict[str, Any]) -> None:
        """Take a copy of the state now and write it beside the training; waits for the one before, if it is not done.

        Keeps the last NUM_KEPT up to it and the best: of those saved, the first whose last validation has the lowest
        `loss_val`. Those of later steps are deleted: they were broken, or the run would not have come here again. Where
        a checkpoint cannot be written, the ones before stay, and the run goes on.
        """
        self._wait()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        seal = {name: state[name] for name in ("schema_version", "step", "loss_val")}
        self._writing = self._executor.submit(self._write, buffer.getbuffer(), seal)

    def _wait(self) -> None:
        if not self._writing:
            return
        try:
            self._writing.result()
            self._failure = None
        except InputError as error:
            self._failure = error
            self._say(f"{error}; the run goes on, with the checkpoint before kept")
        self._writing = None

    def _write(self, content: memoryview, seal: dict[str, Any]) -> None:
        name = checkpoint_name(seal["step"])
        sealed = {**seal, "sha256": hashlib.sha256(content).hexdigest(), "config": self._config}
        self._folder.write(f"{name}/{STATE}", content)
        self._folder.write(f"{name}/{SEAL}", json.dumps(sealed, indent=2).encode())
        try:
            self._prune(name)
        except OSError as error:
            raise InputError(f"{self._folder} cannot be read: {error}") from error

    def _prune(self, newest: str) -> None:
        names = [name for name in sealed(self._folder) if name <= newest]
        losses = {name: self._read_seal(name)["loss_val"] for name in names}
        validated = [name for name in names if math.isfinite(losses[name])]
        kept = {*names[-NUM_KEPT:], *sorted(validated, key=losses.__getitem__)[:1]}
        gone = [file for file in self._folder.names() if file.partition("/")[0] not in kept]
        self._folder.delete(sorted(gone, key=lambda file: not file.endswith(SEAL)))  # the seals first

    def _read(self, name: str) -> dict[str, Any]:
        file = f"{name}/{STATE}"
        try:
            seal = self._read_seal(name)
            content = self._folder.read(file) if self._folder.has(file) else b""
        except OSError as error:
            raise InputError(f"{self._folder}/{name} cannot be read ({error}): passed over") from error
        if seal.get("sha256") != hashlib.sha256(content).hexdigest():
            raise InputError(f"{self._folder}/{name} is not the checkpoint that was written: passed over")
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return state

    def _read_seal(self, name: str) -> dict[str, Any]:
        try:
            seal: dict[str, Any] = json.loads(self._folder.read(f"{name}/{SEAL}"))
        except ValueError:
            return {"loss_val": float("inf")}
        return seal


def sealed(folder: Folder) -> list[str]:
    """The names of the finished checkpoints in a folder, by step."""
    return [file.removesuffix(f"/{SEAL}") for file in folder.names() if file.endswith(f"/{SEAL}")]


def last_step(folder: Folder) -> int:
    """Of the newest finished checkpoint in a folder; 0 where there is none."""
    names = sealed(folder)
    return int(names[-1].removeprefix(PREFIX)) if names else 0


def checkpoint_name(step: int) -> str:
    """The folder's name; names sort by step."""
    return f"{PREFIX}{step:08d}"
