"""An archive over HTTP, once: broken downloads go on, and nothing is taken for the archive that is not it."""

import contextlib
import dataclasses
import fcntl
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from srgan_ray.errors import InputError

TIMEOUT_S = 30.0
FIRST_WAIT_S = 1.0  # before trying again; doubles
MAX_FRUITLESS = 5  # attempts in a row that bring no byte
CHUNK_BYTES = 2**18


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file as its publisher made it: size in bytes and SHA-256 tell it from anything else."""

    file_name: str
    url: str
    size: int
    sha256: str


# Khosla et al. 2011; size and hash as TensorFlow Datasets records them.
STANFORD_DOGS = Archive(
    "images.tar",
    "http://vision.stanford.edu/aditya86/ImageNetDogs/images.tar",
    793_579_520,
    "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
)


class _BrokenOff(Exception):
    """The server gave less than it announced, or nothing; what came is kept."""


def download(archive: Archive, folder: Path, mirror: str = "") -> Path:
    """The checked archive in `folder`, downloaded from `mirror` or its own URL unless it is there already.

    A `.part` file that an earlier attempt left is continued where the server gives ranges. Raises InputError where the
    server does not answer, gives something else, or breaks off again and again, and for a folder without room.
    """
    target, url = folder / archive.file_name, mirror or archive.url
    if target.is_file() and target.stat().st_size == archive.size:
        return target  # it got its name after it was checked
    if not url.startswith(("http://", "https://")):
        raise InputError(f"--mirror {url}; wanted the http(s):// URL of {archive.file_name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{archive.file_name}.part"
        with open(part, "ab") as file, _only_one(file, part):
            _complete(file, archive, url)
            _check(part, archive, url)
            os.fsync(file.fileno())
            os.replace(part, target)
    except OSError as error:
        raise InputError(
            f"--cache {folder}: {error.strerror or error}; wanted a folder with room for {archive.size} bytes"
        ) from error
    return target


@contextlib.contextmanager
def _only_one(file: BinaryIO, part: Path) -> Iterator[None]:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{part} is being downloaded by another process; wait for it, or choose another --cache"
        ) from None
    yield


def _complete(file: BinaryIO, archive: Archive, url: str) -> None:
    """Append until the file has the archive's size."""
    fruitless, reason = 0, ""
    with tqdm(total=archive.size, unit="B", unit_scale=True, desc=archive.file_name, disable=None) as bar:
        while (start := file.seek(0, os.SEEK_END)) < archive.size:
            bar.n = start
            if fruitless == MAX_FRUITLESS:
                raise InputError(
                    f"{url} broke off ({reason}); {start} of {archive.size} bytes are kept: run it again to go on, "
                    "choose another --mirror, or give the path of the file as SOURCE"
                )
            if fruitless:
                time.sleep(FIRST_WAIT_S * 2 ** (fruitless - 1))
            try:
                _append(file, start, archive, url, bar)
            except _BrokenOff as broken:
                reason = str(broken)
            fruitless = 0 if file.seek(0, os.SEEK_END) > start else fruitless + 1


def _append(file: BinaryIO, start: int, archive: Archive, url: str, bar: tqdm) -> None:
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            if start and answer.status != http.client.PARTIAL_CONTENT:  # it gives no ranges
                file.truncate(0)
                bar.n = start = 0
            announced = start + int(answer.headers.get("Content-Length") or archive.size - start)
            if announced != archive.size:
                raise InputError(
                    f"{url} has {announced} bytes; wanted {archive.file_name} with {archive.size}: "
                    "choose another --mirror"
                )
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
    except urllib.error.HTTPError as error:
        raise InputError(f"{url} answers {error.code} {error.reason}; {_elsewhere(archive)}") from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        file.flush()
        raise _BrokenOff(str(error) or type(error).__name__) from error
    except urllib.error.URLError as error:
        if start:  # it did answer before
            raise _BrokenOff(str(error.reason)) from error
        raise InputError(f"{url} cannot be reached ({error.reason}); {_elsewhere(archive)}") from error


def _check(part: Path, archive: Archive, url: str) -> None:
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        part.unlink()  # nothing to go on from
        raise InputError(f"{url} has SHA-256 {found}; wanted {archive.sha256}: choose another --mirror")


def _elsewhere(archive: Archive) -> str:
    return f"choose another --mirror, or give the path of {archive.file_name} as SOURCE"
