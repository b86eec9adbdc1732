"""`srgan-ray upscale`, all files: what is left to do, what became of each, and how it ended.

1. `open_worklist` lists the inputs and takes over the rows of an earlier manifest that still hold.
2. Whoever upscales the rest (`upscale_here`, or a pool of actors in `on_ray`) gives the outcomes one by one.
3. `carry_out` collects them in `manifest.jsonl` and says how it ended.
"""

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from srgan_ray.data.storage import Folder, absolute, below, is_uri, list_files
from srgan_ray.errors import InputError
from srgan_ray.models.artifact import find_generator, hash_generator, read_generator
from srgan_ray.serving.files import (
    Outcome,
    Source,
    UpscaleConfig,
    find_sources,
    is_folder,
    list_inputs,
    upscale_source,
)
from srgan_ray.serving.handler import Handler

MANIFEST = "manifest.jsonl"
WRITE_EVERY_S = 5.0
MAX_WRITING_SHARE = 0.02  # of the time: a manifest of 100,000 rows has 50 MB

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Worklist:
    """What a command is to do. Its config has absolute paths."""

    config: UpscaleConfig
    handler: Handler
    settings: dict[str, Any]
    """Which the results depend on."""
    done: dict[str, Row]
    """By input: rows of an earlier command that still hold."""
    others: dict[str, Row]
    """By input: rows of earlier commands for inputs that are none of this one's, whose results are there."""
    todo: list[Source]
    needs_ray: bool


@contextlib.contextmanager
def open_worklist(config: UpscaleConfig) -> Iterator[Worklist]:
    """Look at the generator, the inputs and what --out holds; keep other commands out of --out while inside the `with`.

    A row holds where its input, the settings and the generator are what they were, and its result is there. Raises
    InputError for whatever of these cannot be used, where another command is at work in --out, and where a result would
    replace another input's, or a file that is no result.
    """
    model = config.model.resolved()  # once: all results of a command are of one generator
    handler = Handler(model)
    config = dataclasses.replace(config, out=absolute(config.out), model=model.with_absolute_paths())
    settings = _settings(config)
    inputs = list_inputs(config)
    sources = find_sources(config, inputs)
    with Folder(config.out).locked():
        there = _find_files(config.out)
        known = {input: row for input, row in _read_rows(Folder(config.out)).items() if row.get("output") in there}
        done = {
            source.input: known[source.input]
            for source in sources
            if _holds(known.get(source.input, {}), _identify(config.out, settings, source))
        }
        ours = {source.input for source in sources}
        others = {input: row for input, row in known.items() if input not in ours}
        _check_free(config.out, sources, {row["output"]: input for input, row in known.items()}, there)
        todo = [source for source in sources if source.input not in done]
        needs_ray = bool(todo) and any(map(is_folder, inputs.values()))
        yield Worklist(config, handler, settings, done, others, todo, needs_ray)


def upscale_here(worklist: Worklist) -> Iterator[Outcome]:
    """One file after the other, in this process."""
    return (upscale_source(worklist.handler, worklist.config, source) for source in worklist.todo)


def carry_out(worklist: Worklist, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Write the manifest down while outcomes come; return a summary. Raises InputError where a file failed."""
    manifest = Manifest(worklist)
    manifest.write()
    if worklist.done:
        print(f"going on: {len(worklist.done)} of {manifest.num_sources} files are done", file=sys.stderr)
    try:
        for outcome in tqdm(
            outcomes, total=manifest.num_sources, initial=len(worklist.done), unit=" images", disable=None
        ):
            manifest.add(outcome)
    finally:
        manifest.write()
    if failed := manifest.failed():
        raise InputError(
            f"INPUT {failed[0]['input']}: {failed[0]['error']} ({len(failed)} of {manifest.num_sources} failed, "
            f"the others are in {worklist.config.out})"
        )
    return {
        "out": worklist.config.out,
        "upscaled": len(worklist.todo),
        "skipped": len(worklist.done),
        "manifest": below(worklist.config.out, MANIFEST),
        "generator": worklist.handler.card.name,
    }


class Manifest:
    """`manifest.jsonl`: a row for each input of which something is known, those of other commands too, sorted by
    input. `status`: `begun`, `upscaled` or `failed`."""

    def __init__(self, worklist: Worklist) -> None:
        self.num_sources = len(worklist.done) + len(worklist.todo)
        self._folder = Folder(worklist.config.out)
        self._settings = worklist.settings
        # Written before there are results: those of a command that is killed then count as its own.
        begun = {source.input: self._begin(source) for source in worklist.todo}
        self._rows, self._others = begun | worklist.done, worklist.others
        self._next_write_s = 0.0

    def add(self, outcome: Outcome) -> None:
        """Take an outcome over, and write the file where the last time was a while ago."""
        self._rows[outcome.source.input] = self._row(outcome)
        if time.monotonic() >= self._next_write_s:
            self.write()

    def write(self) -> None:
        """Replace the file."""
        started = time.monotonic()
        rows = _sorted(self._others | self._rows)
        self._folder.write(MANIFEST, "".join(json.dumps(row) + "\n" for row in rows).encode())
        finished = time.monotonic()
        self._next_write_s = finished + max(WRITE_EVERY_S, (finished - started) / MAX_WRITING_SHARE)

    def failed(self) -> list[Row]:
        """The rows of this command's files without a result."""
        return [row for row in _sorted(self._rows) if row["status"] == "failed"]

    def _begin(self, source: Source) -> Row:
        return {**_identify(self._folder.location, self._settings, source), "status": "begun"}

    def _row(self, outcome: Outcome) -> Row:
        identity = self._begin(outcome.source)
        if outcome.error:
            return {**identity, "status": "failed", "error": outcome.error}
        details = outcome.details
        if math.isinf(details["consistency_db"]):  # which JSON does not know
            details = {**details, "consistency_db": None}
        return {**identity, "status": "upscaled", **details}


def _settings(config: UpscaleConfig) -> dict[str, Any]:
    model = config.model
    return {
        "generator_hash": _hash(model.generator),
        "fidelity_generator_hash": _hash(model.fidelity_generator) if model.fidelity_generator else None,
        "fidelity": config.fidelity,
        "format": config.format,
        "asked_precision": model.precision,
    }


def _hash(generator: str) -> str:
    return hash_generator(read_generator(find_generator(generator)))


def _identify(out: str, settings: dict[str, Any], source: Source) -> Row:
    """What of a row must be the same for it to hold."""
    return {
        "input": source.input,
        "output": below(out, source.name),
        "size_bytes": source.size_bytes,
        "modified_ns": source.modified_ns,
        **settings,
    }


def _sorted(rows: dict[str, Row]) -> list[Row]:
    return [rows[input] for input in sorted(rows)]


def _find_files(out: str) -> set[str]:
    names = Folder(out).names() if is_uri(out) else [entry.name for entry in list_files(out)]  # there of UTF-8 alone
    return {below(out, name) for name in names}


def _check_free(out: str, sources: list[Source], owners: dict[str, str], there: set[str]) -> None:
    """Raise InputError where a result would replace one of another input, or a file that no manifest tells of."""
    for source in sources:
        result = below(out, source.name)
        owner = owners.get(result, "unknown origin")
        if result in there and owner != source.input:
            raise InputError(f"INPUT {source.input}: --out {out} has {source.name} of {owner}; wanted another folder")


def _read_rows(folder: Folder) -> dict[str, Row]:
    """The rows of earlier commands by input."""
    if not folder.has(MANIFEST):
        return {}
    try:
        return {row["input"]: row for row in map(json.loads, folder.read(MANIFEST).splitlines())}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--out {folder}: its {MANIFEST} is not one of upscale; wanted another folder") from error


def _holds(row: Row, identity: Row) -> bool:
    return row.get("status") == "upscaled" and identity.items() <= row.items()
