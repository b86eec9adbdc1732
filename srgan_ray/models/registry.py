"""A registry of generators, by path or URI: numbered generator files, and `registry.json`, which tells the current one.

The pointer and the history are one file, so that both change at once and no reader finds one without the other.
"""

import contextlib
import datetime
import json
from pathlib import Path
from typing import Any

from srgan_ray.data.storage import LOCK, Folder, below
from srgan_ray.errors import InputError

REGISTRY = "registry.json"
PROMOTE, ROLLBACK = "promote", "rollback"


class Registry:
    """The files of a registry. Making the object touches nothing; `setting` is what named it, for messages.

    Raises InputError where the folder holds something else.
    """

    def __init__(self, location: str | Path, setting: str) -> None:
        self._folder, self._setting = Folder(location, setting), setting
        self._exists = self._folder.has(REGISTRY)
        if not self._exists and set(self._folder.names()) - {LOCK}:
            raise InputError(f"{setting} {self._folder} holds other things, and no registry; wanted a new or empty one")

    def __str__(self) -> str:
        return str(self._folder)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep other commands of this machine out. InputError where one is at work in it."""
        return self._folder.locked()

    @property
    def current_location(self) -> str:
        """Where the generator file that is served is; there must be one."""
        assert self.current
        return self.location(self.current)

    @property
    def current(self) -> int | None:
        """The version that is served; None while there is none."""
        history = self.history()
        return history[-1]["version"] if history else None

    def location(self, version: int) -> str:
        """Where a version's generator file is."""
        return below(self._folder.location, _name(version))

    def history(self) -> list[dict[str, Any]]:
        """What was done: `time` (UTC), `action`, the `version` that it made the current one, the one `before`, and what
        a promotion knew. Raises InputError where the file is damaged."""
        if not self._folder.has(REGISTRY):
            return []
        try:
            history: list[dict[str, Any]] = json.loads(self._folder.read(REGISTRY))["history"]
            if not history:  # it is first written by a promotion
                raise ValueError("no entry")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self._setting} {self}: {REGISTRY} is damaged; wanted the one that was there") from error
        return history

    def promote(self, content: bytes, known: dict[str, Any]) -> int:
        """Take a generator file's bytes in as the next version, and make it the current one; returns its number."""
        version = 1 + max((entry["version"] for entry in self.history()), default=0)
        self._folder.write(_name(version), content)
        self._enter(PROMOTE, version, known)
        return version

    def roll_back(self, version: int | None) -> int:
        """Make `version`, or the one before the current one's promotion, the current one; returns its number. There
        must be a current one.

        Raises InputError where there is no such version, or its file is gone.
        """
        promotions = {entry["version"]: entry for entry in self.history() if entry["action"] == PROMOTE}
        wanted = promotions[self.current]["before"] if version is None else version
        if wanted not in promotions:
            missing = f"before {self.current}" if wanted is None else wanted
            raise InputError(
                f"{self._setting} {self}: no version {missing} to go back to; wanted --version with one of "
                f"{', '.join(map(str, promotions))}"
            )
        if not self._folder.has(_name(wanted)):
            raise InputError(f"{self._setting} {self}: {_name(wanted)} is gone; wanted --version with another one")
        self._enter(ROLLBACK, wanted, {})
        return wanted

    def _enter(self, action: str, version: int, known: dict[str, Any]) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = {"time": now, "action": action, "version": version, "before": self.current, **known}
        content = {"current": version, "history": [*self.history(), entry]}
        self._folder.write(REGISTRY, (json.dumps(content, indent=2) + "\n").encode())


def is_registry(location: str) -> bool:
    """Whether there is one."""
    return Folder(location).has(REGISTRY)


def open_registry(location: str, setting: str) -> Registry:
    """The registry that is there. Raises InputError where there is none."""
    if not is_registry(location):
        raise InputError(f"{setting} {location} is no registry; wanted one that promote has filled")
    return Registry(location, setting)


def _name(version: int) -> str:
    return f"versions/{version:05d}.safetensors"
