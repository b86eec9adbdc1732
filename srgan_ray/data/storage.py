"""Files by path or URI, through pyarrow: local disk, `s3://`, `gs://`. A file appears whole or not at all.

Credentials, region and endpoint come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …) or stand in the
URI (`s3://bucket/folder?region=eu-west-1`), as pyarrow documents them.
"""

import contextlib
import fcntl
import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.fs

from srgan_ray.errors import InputError

ASIDE = ".writing"
LOCK = "lock"


def is_uri(location: str | Path) -> bool:
    """Whether this names a place on object storage; anything else is a local path."""
    return "://" in str(location)


def absolute(location: str | Path) -> str:
    """The location as other processes understand it: a URI as it is, a path from the root."""
    return str(location) if is_uri(location) else str(Path(location).resolve())


@functools.cache
def resolve(location: str) -> tuple[Any, str]:
    """pyarrow's file system of a location, and the path in it. Raises InputError for a URI that it cannot take."""
    if not is_uri(location):
        return pyarrow.fs.LocalFileSystem(), os.path.abspath(location)
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(location)
    except (OSError, ValueError) as error:
        raise InputError(f"{location}: {_first_line(error)}; wanted a path, s3://… or gs://…") from error
    return filesystem, path


class Entry(NamedTuple):
    """A file below a location: its path relative to it ("" for the location itself), its size in bytes, and when it was
    last written to (0 on object storage)."""

    name: str
    size: int
    modified_ns: int


def list_files(location: str, without: str = "") -> list[Entry]:
    """Every file below a location, but for those below `without`; or the location itself where it is a file. Raises
    InputError where it cannot."""
    filesystem, root = resolve(location)
    try:
        entries = _list_remote(filesystem, root) if is_uri(location) else _list_local(root)
    except OSError as error:
        raise InputError(f"{location} cannot be read: {_first_line(error)}") from error
    inner = path_inside(without, location) if without else ""
    return [entry for entry in entries if not (inner and entry.name.startswith(f"{inner}/"))]


def below(location: str, name: str) -> str:
    """The location of a file below another one; a URI keeps its query."""
    place, mark, query = location.partition("?") if is_uri(location) else (location, "", "")
    return f"{place.rstrip('/')}/{name}{mark}{query}" if name else location


def path_inside(inner: str, outer: str) -> str:
    """The path of a location below another one; empty where it does not lie below it."""
    path, prefix = (without_query(absolute(location)).rstrip("/") for location in (inner, outer))
    return path.removeprefix(f"{prefix}/") if path.startswith(f"{prefix}/") else ""


def without_query(location: str) -> str:
    """The place that a URI names, without what follows about how to reach it; a path as it is."""
    return location.partition("?")[0] if is_uri(location) else location


def split(location: str | Path) -> tuple["Folder", str]:
    """The folder in which a file lies, and the file's name; a URI keeps its query."""
    place, mark, query = absolute(location).partition("?") if is_uri(location) else (absolute(location), "", "")
    parent, _, name = place.rstrip("/").rpartition("/")
    return Folder(f"{parent or '/'}{mark}{query}"), name


def _list_remote(filesystem: Any, root: str) -> list[Entry]:
    [info] = filesystem.get_file_info([root])
    if info.type == pyarrow.fs.FileType.File:
        return [Entry("", info.size, 0)]
    infos = filesystem.get_file_info(pyarrow.fs.FileSelector(root, recursive=True))
    prefix = len(root.rstrip("/")) + 1
    return [Entry(info.path[prefix:], info.size, 0) for info in infos if info.type == pyarrow.fs.FileType.File]


def _list_local(root: str) -> list[Entry]:
    """Not by pyarrow, which takes UTF-8 names only."""
    if os.path.isfile(root):
        return [_entry(root, "")]
    return [
        _entry(path, os.path.relpath(path, root))
        for folder, _, names in os.walk(root, onerror=_raise)
        for path in (os.path.join(folder, name) for name in names)
        if os.path.isfile(path)
    ]


def _entry(path: str, name: str) -> Entry:
    found = os.stat(path)
    return Entry(name, found.st_size, found.st_mtime_ns)


def _raise(error: OSError) -> None:
    raise error


class Folder:
    """A folder on local disk or on object storage; files are named by their path below it. `setting` is what named the
    folder, for messages of what cannot be written.

    Errors of the storage are raised as InputError, in one line that names the place; but `open` and `read` raise
    OSError, since what a file that cannot be read means is for the caller to say.
    """

    def __init__(self, location: str | Path, setting: str = "--out") -> None:
        self.location, self._setting = absolute(location), setting

    def __str__(self) -> str:
        return self.location

    def names(self) -> list[str]:
        """Every file's path below the folder; none where there is no folder."""
        filesystem, root = resolve(self.location)
        selector = pyarrow.fs.FileSelector(root, recursive=True, allow_not_found=True)
        try:
            infos = filesystem.get_file_info(selector)
        except OSError as error:
            raise InputError(f"{self.location} cannot be read: {_first_line(error)}") from error
        return sorted(info.path[len(root) + 1 :] for info in infos if info.type == pyarrow.fs.FileType.File)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self._info(name).is_file)

    def version(self, name: str) -> str:
        """Another one for each time that the file is replaced; empty where there is no such file."""
        info = self._info(name)
        return f"{self.location}/{name} {info.size} {info.mtime_ns}" if info.is_file else ""

    def open(self, name: str) -> Any:
        """A seekable pyarrow file to read from."""
        filesystem, root = resolve(self.location)
        return filesystem.open_input_file(f"{root}/{name}")

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        with self.open(name) as file:
            return bytes(file.read())

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write a file, replacing one of the same name, so that no reader and no kill ever finds half of it."""
        filesystem, root = resolve(self.location)
        try:
            if is_uri(self.location):  # an object is there once its upload is complete
                with filesystem.open_output_stream(f"{root}/{name}") as stream:
                    stream.write(content)
            else:
                _write_local(Path(root) / name, content)
        except OSError as error:
            raise self._failure(name, "written", error) from error

    def delete(self, names: Iterable[str]) -> None:
        """Delete these files, and of the folders they leave empty the local ones."""
        filesystem, root = resolve(self.location)
        for name in names:
            try:
                filesystem.delete_file(f"{root}/{name}")
                if not is_uri(self.location):
                    _remove_empty_folders(Path(root), (Path(root) / name).parent)
            except OSError as error:
                raise self._failure(name, "deleted", error) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands of this machine out of the folder. InputError where one is at work in it, or where there
        can be no such folder.

        Object storage has no locks: there two commands in one folder are not noticed.
        """
        if is_uri(self.location):
            yield
            return
        path = Path(self.location)
        try:
            path.mkdir(parents=True, exist_ok=True)
            file = open(path / LOCK, "w")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{self._setting} {path} cannot be written to: {_first_line(error)}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back by the system, however the process ends
            except BlockingIOError as error:
                raise InputError(f"{self._setting} {path}: another command is at work in it; wait for it") from error
            yield

    def _failure(self, name: str, done: str, error: OSError) -> InputError:
        return InputError(f"{self._setting} {self.location}: {name} cannot be {done}: {_first_line(error)}")

    def _info(self, name: str) -> Any:
        filesystem, root = resolve(self.location)
        try:
            [info] = filesystem.get_file_info([f"{root}/{name}"])
        except OSError as error:
            raise InputError(f"{self.location} cannot be read: {_first_line(error)}") from error
        return info


def _write_local(path: Path, content: bytes | memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ASIDE)
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)  # a full disk needs the room
        raise


def _remove_empty_folders(root: Path, folder: Path) -> None:
    while folder != root and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
