"""The seal of a shard set: what is in it, how it was made, and the hashes that say so. It is written last."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import tyro

from srgan_ray.data.degrade import DEGRADATIONS, SCALE
from srgan_ray.errors import InputError

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"
UNFINISHED = {"train", "val", "rejected.jsonl", f"{FILE_NAME}.writing"}  # what a `prepare` that was killed may leave
SPLIT_RULE = (
    "val where the first 32 bits of sha256('seed:id'), as a fraction, are below val_fraction; "
    "where that leaves val (train) empty, the photograph with the lowest (highest) fraction"
)


@dataclasses.dataclass(frozen=True)
class Request:
    """What decides the content of a shard set, beside the photographs themselves."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """`samples` (photographs inside scikit-image), a folder, or a .tar; `stanford-dogs` is not downloaded yet."""
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
        if self.min_side_px < SCALE:
            raise InputError(f"--min-side-px {self.min_side_px}; wanted {SCALE} or more")


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """Photographs to LR/HR shards."""

    request: Annotated[Request, tyro.conf.arg(name="")]
    out: str
    """Folder for the shard set; asked for again with the same settings, a finished one is kept."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One Parquet file, with its path relative to the manifest."""

    path: str
    split: str
    num_rows: int
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


def split_ids(ids: list[str], seed: int, val_fraction: float) -> dict[str, str]:
    """Each photograph's id (its content's hash) to "train" or "val", by SPLIT_RULE.

    Raises InputError for fewer than 2 photographs, which cannot fill both splits.
    """
    if len(ids) < 2:
        raise InputError(f"{len(ids)} usable photograph(s) in SOURCE; wanted 2 or more, one each for train and val")
    fractions = {id: int(hashlib.sha256(f"{seed}:{id}".encode()).hexdigest()[:8], 16) / 2**32 for id in ids}
    splits = {id: "val" if fraction < val_fraction else "train" for id, fraction in fractions.items()}
    ranked = sorted(fractions, key=lambda id: fractions[id])
    splits[ranked[0]], splits[ranked[-1]] = "val", "train"
    return splits


def hash_data(request: Request, splits: dict[str, str]) -> str:
    """A hash of what was asked for and of the photographs that are in it, independent of their order and place."""
    asked = {key: value for key, value in dataclasses.asdict(request).items() if key != "source"}
    return hashlib.sha256(json.dumps([asked, sorted(splits.items())]).encode()).hexdigest()[:16]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` aside and rename it into place, which makes the shard set valid."""
    aside = folder / f"{FILE_NAME}.writing"
    aside.write_text(json.dumps(dataclasses.asdict(manifest), indent=2) + "\n")
    os.replace(aside, folder / FILE_NAME)


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a finished shard set. Raises InputError where there is none, or of another schema version."""
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise InputError(f"--data {folder} holds no {FILE_NAME}; wanted the folder of a finished `srgan-ray prepare`")
    try:
        fields: dict[str, Any] = json.loads(path.read_text())
        version = fields["schema_version"]
        if version != SCHEMA_VERSION:
            raise InputError(f"{path} has schema version {version}; this version reads {SCHEMA_VERSION}: prepare again")
        request = {**fields.pop("request")}
        request["degradations"] = tuple(request["degradations"])
        shards = tuple(Shard(**shard) for shard in fields.pop("shards"))
        return Manifest(request=Request(**request), shards=shards, **fields)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); run `srgan-ray prepare` again") from error


def find_finished(request: Request, folder: Path) -> Manifest | None:
    """The manifest of the set that a finished `prepare` of this request left in `folder`; None where there is none yet.

    Raises InputError where the folder holds another set, or files that are not of a shard set.
    """
    if (folder / FILE_NAME).is_file():
        manifest = read_manifest(folder)
        for field in dataclasses.fields(Request):
            found, wanted = getattr(manifest.request, field.name), getattr(request, field.name)
            if found != wanted:
                raise InputError(
                    f"--out {folder} holds a shard set with {field.name} = {found}, now {wanted}; "
                    "wanted the same, or another --out"
                )
        return manifest
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= UNFINISHED):
        raise InputError(f"--out {folder} is not empty and holds no shards; wanted a new or an empty folder")
    return None


def make_folder(folder: Path) -> None:
    """Make the folder of a shard set. Raises InputError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder} cannot be made ({error.strerror}); wanted a folder to write to") from error


def versions() -> dict[str, str]:
    """Of what decides the pixels and the numbers that come out."""
    packages = ("srgan-ray", "torch", "torchvision", "ray", "numpy", "opencv-python-headless", "pillow")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def summarize(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """What a command says at its end: where the set is and what is in it."""
    return {"shards": str(folder), **manifest.counts, "data_hash": manifest.data_hash}
