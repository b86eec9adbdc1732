"""An archive over HTTP, once: broken downloads go on, and nothing is taken for the archive that is not it."""

import dataclasses
import errno
import fcntl
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from srgan_ray.errors import InputError

TIMEOUT_S = 30.0
FIRST_WAIT_S = 0.5  # before trying again; doubles with each attempt that brings nothing new
MAX_FRUITLESS = 5  # attempts in a row that bring no new byte
CHUNK_BYTES = 2**18
HTTP = ("http://", "https://")


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
    """The connection failed after it stood, or on the way to go on; what came is kept."""


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """urllib alone follows to ftp:// too."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith(HTTP):
            raise urllib.error.HTTPError(req.full_url, code, f"and sends on to {newurl}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(archive: Archive, folder: Path, mirror: str = "") -> Path:
    """The checked archive in `folder`, downloaded from `mirror` or its own URL unless it is there already.

    A `.part` file that an earlier attempt left is continued where the server gives ranges. Raises InputError where the
    server does not answer, gives something else, or breaks off again and again, and for a folder without room.
    """
    target, url = folder / archive.file_name, mirror or archive.url
    part = folder / f"{archive.file_name}.part"
    try:
        if target.is_file() and target.stat().st_size == archive.size:
            return target  # it got its name after it was checked
        if not url.lower().startswith(HTTP):
            raise _refusal(f"--mirror {url}; wanted http(s)://…/{archive.file_name}")
        folder.mkdir(parents=True, exist_ok=True)
        with open(part, "ab") as file:
            _lock(file, part)
            _complete(file, archive, url)
            _check(part, archive, url)
            os.fsync(file.fileno())
            os.replace(part, target)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        wanted = f"room for {archive.size} bytes" if full else "a folder that can be made and written to"
        raise _refusal(f"{folder}: {error.strerror or error}; wanted {wanted}: choose another with --cache") from error
    return target


def _lock(file: BinaryIO, part: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.path.samestat(os.fstat(file.fileno()), part.stat())  # not if it was renamed before it was locked
    except (BlockingIOError, FileNotFoundError):
        ours = False
    if not ours:
        raise _refusal(f"{part} is being downloaded by another process; wait for it, or choose another --cache")


def _complete(file: BinaryIO, archive: Archive, url: str) -> None:
    """Append until the file has the archive's size."""
    most = kept = file.seek(0, os.SEEK_END)
    fruitless = 0
    with tqdm(total=archive.size, unit="B", unit_scale=True, desc=archive.file_name, disable=None) as bar:
        while kept < archive.size:
            reason = "it ended early"
            try:
                _append(file, kept, archive, url, bar)
            except _BrokenOff as broken:
                reason = str(broken)
            kept = file.seek(0, os.SEEK_END)
            # Against the most there ever was: without ranges a server starts from 0 each time, perhaps for ever.
            fruitless = 0 if kept > most else fruitless + 1
            most = max(most, kept)
            if fruitless == MAX_FRUITLESS:
                raise _refusal(
                    f"{url} broke off {fruitless} times in a row ({reason}); {kept} of {archive.size} bytes are kept: "
                    f"run it again to go on, {_elsewhere(archive)}"
                )
            if kept < archive.size:
                time.sleep(FIRST_WAIT_S * 2**fruitless)


def _append(file: BinaryIO, kept: int, archive: Archive, url: str, bar: tqdm) -> None:
    with _ask(url, kept, archive) as answer:
        start = _start(answer, kept, archive, url)
        if start < kept:
            file.truncate(start)
        bar.n = file.seek(start)
        while file.tell() <= archive.size and (chunk := _read(answer)):
            file.write(chunk)
            bar.update(len(chunk))


def _ask(url: str, start: int, archive: Archive) -> http.client.HTTPResponse:
    """The server's answer for the bytes from `start` on, or for all where it has no such range."""
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        return urllib.request.build_opener(_HttpOnly).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _ask(url, 0, archive)
        raise _refusal(f"{url} answers {error.code} {error.reason}; wanted the file: {_elsewhere(archive)}") from error
    except (ValueError, http.client.InvalidURL) as error:
        raise _refusal(f"--mirror {url}: {error}; wanted http(s)://…/{archive.file_name}") from error
    except (OSError, http.client.HTTPException) as error:
        if start or not isinstance(error, urllib.error.URLError):  # there is, or was, a server
            raise _BrokenOff(str(error) or type(error).__name__) from error
        why = f"{url} cannot be reached ({error.reason})"
        raise _refusal(f"{why}; wanted a server that answers: {_elsewhere(archive)}") from error


def _start(answer: http.client.HTTPResponse, kept: int, archive: Archive, url: str) -> int:
    """The byte that the answer begins with; refuses an answer that is not of this file."""
    start, total = 0, str(answer.length)
    if answer.status == http.client.PARTIAL_CONTENT:
        found = answer.headers.get("Content-Range", "without Content-Range")
        given = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", found)
        if not given or int(given[1]) != kept:
            raise _refusal(f"{url} answers {found}; wanted bytes {kept}-: {_elsewhere(archive)}")
        start, total = kept, given[2]
    if total not in ("None", "*", str(archive.size)):  # it need not tell
        raise _refusal(f"{url} has {total} bytes; wanted {archive.size}: {_elsewhere(archive)}")
    return start


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read1(CHUNK_BYTES)  # what is there: read() would lose it where the rest of a chunk does not come
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOff(str(error) or type(error).__name__) from error


def _check(part: Path, archive: Archive, url: str) -> None:
    with open(part, "rb") as file:
        found = part.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    if found != (archive.size, archive.sha256):
        part.unlink()  # nothing to go on from
        raise _refusal(
            f"{url} gave {found[0]} bytes with SHA-256 {found[1]}; wanted {archive.size} with {archive.sha256}: "
            f"run it again to start anew, {_elsewhere(archive)}"
        )


def _elsewhere(archive: Archive) -> str:
    return f"choose another with --mirror, or give the path of {archive.file_name} as SOURCE"


def _refusal(message: str) -> InputError:
    """In one line, also where urllib's or the server's words have several."""
    return InputError(" ".join(message.split()))
