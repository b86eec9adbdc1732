"""The seal of a shard set: what is in it, how it was made, and the hashes that say so. It is written last."""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

import srgan_ray
from srgan_ray.data.degrade import DEGRADATIONS, SCALE
from srgan_ray.data.storage import ASIDE, LOCK, Folder
from srgan_ray.errors import InputError

SCHEMA_VERSION = 2
PREPARE_AGAIN = "prepare again with --overwrite"  # what mends a set that is damaged
FILE_NAME = "manifest.json"
REJECTED, REPORT, PARTS = "rejected.jsonl", "report.html", "parts"
# What `prepare` writes, of which one that was killed may leave any; folders of other things have a train and a val too.
OWN_NAMES = re.compile(
    rf"(train|val)/\d{{5,}}\.parquet|{PARTS}/\w+/(mark|\d{{6,}}\.parquet)"
    rf"|{'|'.join(map(re.escape, (REJECTED, REPORT, LOCK, FILE_NAME)))}"
)
LEAST_SIDE_PX = 16  # the sliced Wasserstein distance and VGG need it, PSNR more than twice its border of 4
SPLIT_RULE = (
    "val where the first 32 bits of sha256('seed:id'), as a fraction, are below val_fraction; photographs that look "
    "alike go by the lowest id among them; where that leaves val (train) empty, the group with the lowest (highest) one"
)


@dataclasses.dataclass(frozen=True)
class Request:
    """What decides the content of a shard set, beside the photographs themselves."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """`stanford-dogs` (downloads 757 MiB once), `samples` (photographs inside scikit-image), or a path or URI (s3://,
    gs://) of a folder, a .tar or a .parquet; tars and Parquet files in a folder are looked into."""
    limit: int = 0
    """Take so many files of the source; 0 takes all."""
    seed: int = 0
    """Decides the order, the files that --limit takes, and the split."""
    degradations: tuple[str, ...] = tuple(DEGRADATIONS)
    """One LR column for each."""
    val_fraction: float = 0.05
    """Share of the photographs that is kept for validation; one at least."""
    min_side_px: int = 96
    """Photographs with a smaller side are rejected; the crops of the training must fit."""

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise InputError(f"--limit {self.limit}; wanted 0 or more")
        unknown = [name for name in self.degradations if name not in DEGRADATIONS]
        if unknown or not self.degradations:
            raise InputError(f"--degradations {unknown or 'none'}; wanted one or more of {', '.join(DEGRADATIONS)}")
        if not 0 < self.val_fraction < 1:
            raise InputError(f"--val-fraction {self.val_fraction}; wanted more than 0 and less than 1")
        if len(set(self.degradations)) < len(self.degradations):
            raise InputError(f"--degradations {' '.join(self.degradations)}; wanted each of them once")
        if self.min_side_px < LEAST_SIDE_PX:
            raise InputError(f"--min-side-px {self.min_side_px}; wanted {LEAST_SIDE_PX} or more")


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """Photographs to LR/HR shards."""

    request: Annotated[Request, tyro.conf.arg(name="")]
    out: str
    """Folder (path or URI) for the shard set; asked for again with the same settings, a finished one is kept."""
    overwrite: bool = False
    """Make the shard set anew in place of a finished one, whether that has other settings, the same, or is damaged."""
    cache: str = "~/.cache/srgan_ray"
    """Folder that keeps the archive of `stanford-dogs`; every node must reach it."""
    mirror: str = ""
    """URL of another copy of Stanford Dogs' images.tar."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One Parquet file, with its path relative to the manifest."""

    path: str
    split: str
    num_rows: int
    num_pixels: int
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A finished shard set. `data_hash` covers the ids, the splits and the request, not the machine it ran on."""

    request: Request
    counts: dict[str, int]
    shards: tuple[Shard, ...]
    data_hash: str
    versions: dict[str, str]
    split_rule: str = SPLIT_RULE
    scale: int = SCALE
    schema_version: int = SCHEMA_VERSION


def split_ids(ids: list[str], seed: int, val_fraction: float, alike: Iterable[Sequence[str]] = ()) -> dict[str, str]:
    """Each photograph's id (its content's hash) to "train" or "val", by SPLIT_RULE; groups of ids that look alike.

    Raises InputError for fewer than 2 photographs that do not look alike, which cannot fill both splits.
    """
    groups = [list(group) for group in alike]
    grouped = {id for group in groups for id in group}
    groups += [[id] for id in ids if id not in grouped]
    if len(groups) < 2:
        raise InputError(
            f"{len(groups)} usable photograph(s) in SOURCE that do not look alike; wanted 2 or more, for train and val"
        )
    fractions = [int(hashlib.sha256(f"{seed}:{min(group)}".encode()).hexdigest()[:8], 16) / 2**32 for group in groups]
    ranked = sorted(range(len(groups)), key=lambda number: fractions[number])
    is_val = {number for number in ranked if fractions[number] < val_fraction}
    is_val = (is_val | {ranked[0]}) - {ranked[-1]}
    return {id: "val" if number in is_val else "train" for number, group in enumerate(groups) for id in group}


def hash_data(request: Request, splits: dict[str, str]) -> str:
    """A hash of what was asked for and of the photographs that are in it, independent of their order and place."""
    asked = {key: value for key, value in dataclasses.asdict(request).items() if key != "source"}
    return hashlib.sha256(json.dumps([asked, sorted(splits.items())]).encode()).hexdigest()[:16]


def write_manifest(folder: Folder, manifest: Manifest) -> None:
    """Write `manifest.json`, which makes the shard set valid."""
    folder.write(FILE_NAME, (json.dumps(dataclasses.asdict(manifest), indent=2) + "\n").encode())


def read_manifest(location: str | Path) -> Manifest:
    """The manifest of a finished shard set. Raises InputError where there is none, or of another schema version."""
    folder = Folder(location)
    if not folder.has(FILE_NAME):
        raise InputError(f"--data {location} holds no {FILE_NAME}; wanted the folder of a finished `srgan-ray prepare`")
    path = f"{folder}/{FILE_NAME}"
    try:
        fields: dict[str, Any] = json.loads(folder.read(FILE_NAME))
        version = fields["schema_version"]
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema version {version}; this version reads {SCHEMA_VERSION}: {PREPARE_AGAIN}"
            )
        request = _read_request(path, fields.pop("request"))
        shards = tuple(Shard(**shard) for shard in fields.pop("shards"))
        return Manifest(request=request, shards=shards, **fields)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged ({error}): {PREPARE_AGAIN}") from error


def _read_request(path: str, settings: dict[str, Any]) -> Request:
    try:
        return Request(**{**settings, "degradations": tuple(settings["degradations"])})
    except InputError as error:  # an earlier version took what this one does not
        raise InputError(f"{path} is of a shard set with {error}: {PREPARE_AGAIN}") from error


def find_finished(config: PrepareConfig) -> Manifest | None:
    """The manifest of the set that a finished `prepare` with these settings left in --out; None where there is none, or
    where it is to be overwritten.

    Raises InputError where the folder holds another set, a damaged one, or files of something else.
    """
    folder = Folder(config.out)
    if config.overwrite or not folder.has(FILE_NAME):
        _check_free(folder)
        return None
    manifest = read_manifest(config.out)
    differing = [
        f"{field.name} = {found}, now {wanted}"
        for field in dataclasses.fields(Request)
        if (found := getattr(manifest.request, field.name)) != (wanted := getattr(config.request, field.name))
    ]
    if differing:
        raise InputError(
            f"--out {folder} holds a shard set with {'; '.join(differing)}; "
            "wanted the same, another --out, or --overwrite"
        )
    return manifest


def delete_parts(folder: Folder) -> None:
    """Delete what only an unfinished shard set needs."""
    folder.delete(_parts(folder))


def has_parts(folder: Folder) -> bool:
    """Whether there is any of it."""
    return bool(_parts(folder))


def _parts(folder: Folder) -> list[str]:
    return [name for name in folder.names() if name.startswith(f"{PARTS}/")]


def _check_free(folder: Folder) -> None:
    names = [name.removesuffix(ASIDE) for name in folder.names()]
    if strange := [name for name in names if not OWN_NAMES.fullmatch(name)]:
        raise InputError(
            f"--out {folder} holds {strange[0]}, which is of no shard set; wanted a new or an empty folder"
        )


def versions() -> dict[str, str]:
    """Of what decides the pixels and the numbers that come out; without Ray, where a run needs none, `none`."""
    packages = ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow")
    ours = {"python": platform.python_version(), "srgan-ray": srgan_ray.__version__}
    ray = importlib.metadata.version("ray") if importlib.util.find_spec("ray") else "none"
    return ours | {name: importlib.metadata.version(name) for name in packages} | {"ray": ray}


def summarize(folder: Folder, manifest: Manifest) -> dict[str, Any]:
    """What a command says at its end: where the set is and what is in it."""
    return {"shards": str(folder), **manifest.counts, "data_hash": manifest.data_hash}
