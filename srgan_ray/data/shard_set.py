"""The rows of a finished shard set, by index: from local disk or from object storage, a few row groups at a time."""

import bisect
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from srgan_ray.data.manifest import read_manifest
from srgan_ray.data.storage import Folder
from srgan_ray.errors import InputError


class Row(NamedTuple):
    """One photograph: encoded HR, whose top left `height` x `width` pixels count, and lossless LR by degradation."""

    id: str
    breed: str
    hr: bytes
    lr: dict[str, bytes]
    height: int
    width: int


class ShardSet:
    """The rows of one split of a finished shard set, which threads may read at the same time.

    `degradations` names the LR images to read, all unless told. Raises InputError for an unfinished or unknown set, and
    where a shard is missing.
    """

    def __init__(self, location: str | Path, split: str, degradations: Sequence[str] | None = None) -> None:
        self.manifest = read_manifest(location)
        self.shards = [shard for shard in self.manifest.shards if shard.split == split]
        self._folder = Folder(location)
        there = set(self._folder.names())
        if missing := [shard.path for shard in self.shards if shard.path not in there]:
            raise InputError(f"--data {location} lacks {missing[0]}, which its manifest names: run prepare again")
        self.degradations = self.manifest.request.degradations if degradations is None else degradations
        self._ends = list(accumulate(shard.num_rows for shard in self.shards))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Row:
        return self.read([index])[index]

    def read(self, indices: Iterable[int]) -> dict[int, Row]:
        """The rows of these indices. Each shard is opened once, and only row groups with wanted rows are read."""
        by_shard: dict[int, list[int]] = {}
        for index in sorted(set(indices)):
            if not 0 <= index < len(self):
                raise IndexError(f"row {index} of {len(self)}")
            by_shard.setdefault(bisect.bisect_right(self._ends, index), []).append(index)
        return {index: row for shard, wanted in by_shard.items() for index, row in self._read_shard(shard, wanted)}

    def _read_shard(self, shard: int, indices: list[int]) -> list[tuple[int, Row]]:
        first = self._ends[shard] - self.shards[shard].num_rows
        columns = ["id", "breed", "hr", *(f"lr_{name}" for name in self.degradations), "height", "width"]
        with self._folder.open(self.shards[shard].path) as file:
            parquet = pq.ParquetFile(file, pre_buffer=True)
            sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            places, groups = _locate(np.array(indices) - first, sizes)
            values = parquet.read_row_groups(groups, columns, use_threads=False).take(places).to_pylist()
        return [(index, self._row(fields)) for index, fields in zip(indices, values)]

    def _row(self, fields: dict) -> Row:
        lr = {name: fields[f"lr_{name}"] for name in self.degradations}
        return Row(fields["id"], fields["breed"], fields["hr"], lr, fields["height"], fields["width"])


def _locate(rows: np.ndarray, group_sizes: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """The row groups of a file that hold its `rows`, and the places of the rows once only those groups are read."""
    ends = np.cumsum(group_sizes)
    group_of_row = np.searchsorted(ends, rows, side="right")
    groups = np.unique(group_of_row)
    sizes = np.asarray(group_sizes)[groups]
    starts_read = np.cumsum(sizes) - sizes
    starts = (ends - group_sizes)[group_of_row]
    return rows - starts + starts_read[np.searchsorted(groups, group_of_row)], groups.tolist()
