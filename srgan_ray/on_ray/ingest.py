"""Photographs to a shard set with Ray Data.

1. List the source's files (no pixels), in an order drawn from the seed.
2. Inspect each in parallel: id and size, or the reason for its rejection.
3. With all ids known: drop duplicates, split, cut into shards of a fixed number of rows.
4. Write each shard in parallel, one task a file.
5. Write `rejected.jsonl`, then the manifest, which makes the set valid.

The result depends on the photographs and the request alone, not on the number of CPUs.
"""

import dataclasses
import functools
import json
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import ray.data
from tqdm import tqdm

from srgan_ray.data.manifest import Manifest, Request, Shard, hash_data, split_ids, summarize, versions, write_manifest
from srgan_ray.data.shards import ROWS_PER_SHARD, Finding, inspect, write_shard
from srgan_ray.data.sources import Photograph

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """A shard to be written."""

    path: str
    split: str
    findings: tuple[Finding, ...]


def prepare(photographs: list[Photograph], request: Request, folder: Path) -> dict[str, Any]:
    """Make the shard set of these photographs in `folder` and return a summary. Ray must be connected.

    Raises InputError for fewer than 2 usable photographs.
    """
    look = functools.partial(inspect, min_side_px=request.min_side_px)
    findings = _in_parallel(look, photographs, "photographs inspected")
    kept, duplicates = _without_duplicates(finding for finding in findings if finding.id)
    splits = split_ids([finding.id for finding in kept], request.seed, request.val_fraction)
    for split in ("train", "val"):  # left by a prepare that was stopped
        shutil.rmtree(folder / split, ignore_errors=True)
    write = functools.partial(_write_planned, folder, request.degradations)
    shards = _in_parallel(write, _plan(kept, splits), "shards written")
    rejected = [finding for finding in findings if finding.reason] + duplicates
    _write_rejected(folder, rejected)
    num_val = sum(split == "val" for split in splits.values())
    counts = {"found": len(findings), "train": len(kept) - num_val, "val": num_val, "rejected": len(rejected)}
    manifest = Manifest(request, counts, tuple(shards), hash_data(request, splits), versions())
    write_manifest(folder, manifest)
    return summarize(folder, manifest)


def _without_duplicates(findings: Iterable[Finding]) -> tuple[list[Finding], list[Finding]]:
    """The findings with an id of their own, the first in order, and the others as rejections."""
    first: dict[str, Finding] = {}
    duplicates = []
    for finding in findings:
        kept = first.setdefault(finding.id, finding)
        if kept is not finding:
            duplicates.append(Finding(finding.photograph, reason=f"the same pixels as {kept.photograph.name}"))
    return list(first.values()), duplicates


def _plan(kept: list[Finding], splits: dict[str, str]) -> list[ShardPlan]:
    """Cut each split, in the order of the list, into shards of ROWS_PER_SHARD rows."""
    return [
        ShardPlan(f"{split}/{number:05d}.parquet", split, tuple(rows[start : start + ROWS_PER_SHARD]))
        for split in ("train", "val")
        for rows in [[finding for finding in kept if splits[finding.id] == split]]
        for number, start in enumerate(range(0, len(rows), ROWS_PER_SHARD))
    ]


def _write_planned(folder: Path, degradations: tuple[str, ...], plan: ShardPlan) -> Shard:
    return write_shard(folder, plan.path, plan.split, plan.findings, degradations)


def _in_parallel(function: Callable[[Item], Result], items: list[Item], unit: str) -> list[Result]:
    """Apply a function to each item with Ray Data, in the order of the items, with a progress bar."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    numbered = ray.data.from_items([{"number": number, "item": item} for number, item in enumerate(items)])
    done = numbered.map(lambda row: {"number": row["number"], "result": function(row["item"])})
    rows = tqdm(done.iter_rows(), total=len(items), unit=f" {unit}", disable=None)
    results = {row["number"]: row["result"] for row in rows}
    return [results[number] for number in range(len(items))]


def _write_rejected(folder: Path, rejected: list[Finding]) -> None:
    lines = (json.dumps({"name": finding.photograph.name, "reason": finding.reason}) for finding in rejected)
    (folder / "rejected.jsonl").write_text("".join(f"{line}\n" for line in lines))
