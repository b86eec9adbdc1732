"""Photographs to rows, rows to Parquet files and back.

1. `inspect` decodes a photograph once, to tell its id (hash of its pixels) and size, or why it is rejected.
2. With every id known, duplicates are dropped and each id gets its split (`manifest.split_ids`).
3. `write_shard` turns up to ROWS_PER_SHARD photographs into one Parquet file: written aside, then renamed.
4. `ShardSet` reads single rows of a finished set by index.
"""

import bisect
import dataclasses
import hashlib
import io
import os
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from srgan_ray.data import images
from srgan_ray.data.degrade import DEGRADATIONS, SCALE
from srgan_ray.data.manifest import Shard, read_manifest
from srgan_ray.data.sources import Photograph
from srgan_ray.errors import InputError

ROWS_PER_SHARD = 64
ROWS_PER_GROUP = 8  # what one random read costs


@dataclasses.dataclass(frozen=True)
class Finding:
    """What `inspect` found: an id and the cropped size, or the reason for the rejection."""

    photograph: Photograph
    id: str = ""
    height: int = 0
    width: int = 0
    reason: str = ""


class Row(NamedTuple):
    """One photograph: encoded HR, cropped to a multiple of the scale, and one lossless LR for each degradation."""

    id: str
    breed: str
    hr: bytes
    lr: dict[str, bytes]
    height: int
    width: int


def inspect(photograph: Photograph, min_side_px: int) -> Finding:
    """Decode a photograph and tell its id and cropped size, or the reason why it cannot be trained on."""
    try:
        image = images.crop_to_multiple(images.decode(photograph.read()), SCALE)
    except (images.UnreadableImage, OSError) as error:
        return Finding(photograph, reason=str(error))
    height, width = image.shape[:2]
    if min(height, width) < min_side_px:
        return Finding(photograph, reason=f"{width}x{height} pixels; the smaller side must be {min_side_px} or more")
    return Finding(photograph, _hash_pixels(image), height, width)


def make_row(photograph: Photograph, degradations: Sequence[str]) -> Row:
    """Decode, crop, degrade and encode one photograph. Its original bytes are kept where nothing was cropped."""
    encoded = photograph.read()
    image = images.decode(encoded)
    hr = images.crop_to_multiple(image, SCALE)
    kept = encoded if hr.shape == image.shape and images.is_plain(encoded) else images.encode(hr, "png")
    lr = {name: images.encode(DEGRADATIONS[name](hr), "png") for name in degradations}
    return Row(_hash_pixels(hr), photograph.breed, kept, lr, hr.shape[0], hr.shape[1])


def write_shard(folder: Path, path: str, split: str, findings: Sequence[Finding], degradations: Sequence[str]) -> Shard:
    """Write the photographs as one Parquet file at `folder/path` and return its entry for the manifest.

    Raises RuntimeError for a photograph that changed since it was inspected.
    """
    rows = [make_row(finding.photograph, degradations) for finding in findings]
    for finding, row in zip(findings, rows):
        if row.id != finding.id:
            raise RuntimeError(f"{finding.photograph.name} changed while the shards were made: run prepare again")
    columns = {
        "id": [row.id for row in rows],
        "breed": [row.breed for row in rows],
        "hr": pa.array([row.hr for row in rows], pa.large_binary()),
        **{f"lr_{name}": pa.array([row.lr[name] for row in rows], pa.large_binary()) for name in degradations},
        "height": pa.array([row.height for row in rows], pa.int32()),
        "width": pa.array([row.width for row in rows], pa.int32()),
    }
    buffer = io.BytesIO()
    # The images are compressed already.
    pq.write_table(pa.table(columns), buffer, row_group_size=ROWS_PER_GROUP, compression="none", use_dictionary=False)
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(".writing")
    aside.write_bytes(buffer.getvalue())
    os.replace(aside, target)
    return Shard(path, split, len(rows), hashlib.sha256(buffer.getvalue()).hexdigest())


class ShardSet:
    """The rows of one split of a finished shard set, by index. Raises InputError for an unfinished or unknown one."""

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        self._shards = [shard for shard in self.manifest.shards if shard.split == split]
        for shard in self._shards:
            if not (self.folder / shard.path).is_file():
                raise InputError(f"--data {folder} lacks {shard.path}, which its manifest names: run prepare again")
        self._ends = list(accumulate(shard.num_rows for shard in self._shards))
        self._files: dict[int, pq.ParquetFile] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        shard = bisect.bisect_right(self._ends, index)
        row = index - (self._ends[shard] - self._shards[shard].num_rows)
        if shard not in self._files:
            self._files[shard] = pq.ParquetFile(self.folder / self._shards[shard].path)
        group = self._files[shard].read_row_group(row // ROWS_PER_GROUP)
        values = group.slice(row % ROWS_PER_GROUP, 1).to_pylist()[0]
        lr = {name: values[f"lr_{name}"] for name in self.manifest.request.degradations}
        return Row(values["id"], values["breed"], values["hr"], lr, values["height"], values["width"])


def _hash_pixels(image: np.ndarray) -> str:
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:32]
