"""`srgan-ray upscale`, file by file: which files are inputs, where their results go, and one of them upscaled."""

import dataclasses
import errno
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import tyro

from srgan_ray.data.images import UnreadableImage
from srgan_ray.data.storage import Entry, Folder, absolute, below, is_uri, list_files, path_inside, split, without_query
from srgan_ray.errors import InputError
from srgan_ray.serving.handler import Handler, ModelConfig
from srgan_ray.serving.picture import TooLargeForFormat

DETAILS = ("width", "height", "generator", "precision", "seconds", "consistency_db")  # of what Upscaled says
# What the system says where a result's name cannot exist: too long, or a file where a folder must be, or the reverse.
NAME_IMPOSSIBLE = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


@dataclasses.dataclass(frozen=True)
class UpscaleConfig:
    """Image files at four times their size."""

    input: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="INPUT")]
    """Image files, and folders whose files are taken, nested ones too: paths or URIs."""
    out: str
    """Folder (path or URI) for the results, which keep their names, and for manifest.jsonl; the same command again
    goes on."""
    model: Annotated[ModelConfig, tyro.conf.arg(name="")] = ModelConfig()
    fidelity: float | None = None
    """From 0 (as --generator) to 1 (as --fidelity-generator)."""
    format: Literal["png", "jpeg", "webp"] = "png"
    """Of the results."""

    def __post_init__(self) -> None:
        if not self.input:
            raise InputError("INPUT is missing; wanted one or more image files or folders")
        if self.fidelity is not None and not 0 <= self.fidelity <= 1:
            raise InputError(f"--fidelity {self.fidelity}; wanted 0 to 1")
        if self.fidelity is not None and not self.model.fidelity_generator:
            raise InputError(f"--fidelity {self.fidelity}; wanted --fidelity-generator beside it, to blend with")


@dataclasses.dataclass(frozen=True)
class Source:
    """An input file as it was listed, and the name of its result below --out."""

    input: str
    """Its path from the root, or its URI."""
    name: str
    size_bytes: int
    modified_ns: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a source."""

    source: Source
    error: str = ""
    """Why there is no result; empty where there is one."""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Of the result: DETAILS."""


def upscale_source(handler: Handler, config: UpscaleConfig, source: Source) -> Outcome:
    """Read one file, upscale it, and write the result. A file with which this fails, in whatever way, stops no other.

    Raises InputError for what concerns all of them: an --out that cannot be written to.
    """
    try:
        result = handler.upscale(_read(source.input), config.format, config.fidelity)
        Folder(config.out).write(source.name, result.encoded)
    except InputError as error:
        if getattr(error.__cause__, "errno", None) in NAME_IMPOSSIBLE:
            return Outcome(source, str(error))
        raise
    except (UnreadableImage, TooLargeForFormat, OSError) as error:
        return Outcome(source, str(error))
    except Exception as error:  # out of memory, or a decoder's own
        return Outcome(source, repr(error))
    return Outcome(source, details={name: getattr(result, name) for name in DETAILS})


def list_inputs(config: UpscaleConfig) -> dict[str, list[Entry]]:
    """The files of each INPUT: one without a name for a file, all that a folder holds outside --out.

    Raises InputError for one that is missing, empty or cannot be read.
    """
    return {given: _list_input(given, config.out) for given in config.input}


def find_sources(config: UpscaleConfig, inputs: dict[str, list[Entry]]) -> list[Source]:
    """The files as sources, sorted by their location.

    Raises InputError where two would have one result, and where a result would lie among the inputs.
    """
    found = {source.input: source for given in inputs for source in _sources(given, inputs[given], config.format)}
    sources = [found[location] for location in sorted(found)]
    first: dict[str, str] = {}
    for source in sources:
        if (other := first.setdefault(source.name, source.input)) != source.input:
            raise InputError(f"INPUT {other} and {source.input} would both become {source.name}; wanted unlike names")
    _check_apart(config.out, inputs, {below(absolute(config.out), name) for name in first})
    return sources


def is_folder(entries: Iterable[Entry]) -> bool:
    """Whether these are the files of a folder."""
    return any(entry.name for entry in entries)


def _list_input(given: str, out: str) -> list[Entry]:
    if not is_uri(given) and not Path(given).exists():
        raise InputError(f"INPUT {given} does not exist; wanted an image file or a folder")
    entries = list_files(absolute(given), out)  # what an earlier command made is no input
    if not entries:
        raise InputError(f"INPUT {given} is an empty folder; wanted images in it")
    return entries


def _sources(given: str, entries: list[Entry], format: str) -> Iterable[Source]:
    root = given if is_uri(given) else os.path.abspath(given)  # a link keeps its name
    for entry in entries:
        name = PurePosixPath(entry.name or PurePosixPath(without_query(root)).name).with_suffix(f".{format}")
        yield Source(below(root, entry.name), str(name), entry.size, entry.modified_ns)


def _check_apart(out: str, inputs: dict[str, list[Entry]], results: set[str]) -> None:
    for given, entries in inputs.items():
        place = absolute(given)
        among = {place} & results
        if is_folder(entries) and not path_inside(out, given):
            among = {result for result in results if path_inside(result, given)}
        if among:
            raise InputError(
                f"--out {out}: INPUT {given} would be overwritten or added to by {min(among)}; wanted another folder"
            )


def _read(location: str) -> bytes:
    if not is_uri(location):
        return Path(location).read_bytes()
    folder, name = split(location)
    return folder.read(name)
