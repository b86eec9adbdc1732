"""Photographs to a shard set with Ray Data.

1. Cut the source's files, listed in an order drawn from the seed, into parts of a fixed number of bytes.
2. Examine each part in parallel: every photograph is read and decoded once, its row made, the part written.
3. With all findings known: drop duplicates, keep look-alikes on one side of the split, plan the shards.
4. Write each shard in parallel from the parts.
5. Write `rejected.jsonl`, `report.html`, then the manifest, which makes the set valid; delete the parts.

The result depends on the photographs and the request alone, not on the number of CPUs. Stopped at any moment and
started again, it goes on from the parts and shards that are there: each is written whole or not at all, and all of
them carry the same key, a hash of the listing, the request and the versions.
"""

import functools
import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tqdm import tqdm

from srgan_ray.data import images
from srgan_ray.data.forensics import Finding
from srgan_ray.data.manifest import (
    FILE_NAME,
    PARTS,
    REJECTED,
    REPORT,
    Manifest,
    Request,
    delete_parts,
    hash_data,
    summarize,
    versions,
    write_manifest,
)
from srgan_ray.data.report import render_report
from srgan_ray.data.shard_set import REQUESTS_AT_ONCE
from srgan_ray.data.shards import Plan, in_parts, plan_shards, read_findings, write_part, write_shard
from srgan_ray.data.sources import Photograph
from srgan_ray.data.storage import ASIDE, LOCK, Folder
from srgan_ray.on_ray.cluster import total_cpus
from srgan_ray.on_ray.parallel import map_in_tasks

Item = TypeVar("Item")
Result = TypeVar("Result")
PART_BYTES = 2**20  # of the source: a second of work or less, so that a kill costs little and all CPUs end together
MAX_PART_PHOTOGRAPHS = 128
# Ray Data spends about 5 ms of the driver's time on each task: with several items in a task, 6,000 photographs took 6 %
# less time. But a CPU needs enough tasks to end together with the others.
MAX_ITEMS_PER_TASK = 8
MIN_TASKS_PER_CPU = 6
THUMBNAIL_PX = 150


def prepare(photographs: list[Photograph], request: Request, folder: Folder) -> dict[str, Any]:
    """Make the shard set of these photographs in `folder` and return a summary. Ray must be connected.

    A finished set that is there is replaced. Raises InputError for too few usable photographs, for a photograph that
    changes meanwhile, and where the folder cannot be written to.
    """
    chunks = in_parts(photographs, lambda photograph: photograph.size, PART_BYTES, MAX_PART_PHOTOGRAPHS)
    key = _make_key(photographs, request)
    paths = [f"{PARTS}/{key}/{number:06d}.parquet" for number in range(len(chunks))]
    there = _keep_only(folder, key)
    todo = [(path, chunk) for path, chunk in zip(paths, chunks) if path not in there]
    if len(todo) < len(paths):
        print(f"going on: {len(paths) - len(todo)} of {len(paths)} parts are there", file=sys.stderr)
    _in_parallel(functools.partial(_examine, folder, request), todo, [len(chunk) for _, chunk in todo], "photographs")
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as readers:
        parts = list(readers.map(functools.partial(read_findings, folder), paths))
    plan = plan_shards(parts, request)
    findings = _with_rejections(parts, plan)
    counts = _count(findings, plan)
    look = functools.partial(_thumbnail, {photograph.name: photograph for photograph in photographs})
    with ThreadPoolExecutor(1) as aside:
        report = aside.submit(render_report, request, counts, findings, plan.alike, look)
        write = functools.partial(write_shard, folder, part_paths=paths, request=request)
        shards = _in_parallel(write, plan.shards, [1] * len(plan.shards), "shards")
        folder.write(REJECTED, _list_rejected(plan.rejected))
        folder.write(REPORT, report.result().encode())
    manifest = Manifest(request, counts, tuple(shards), hash_data(request, plan.splits), versions())
    write_manifest(folder, manifest)
    delete_parts(folder)
    return summarize(folder, manifest)


def _make_key(photographs: list[Photograph], request: Request) -> str:
    """A hash of all that decides the parts and the shards."""
    hasher = hashlib.sha256(repr((request, versions())).encode(errors="surrogateescape"))
    for photograph in photographs:
        hasher.update(repr(photograph).encode(errors="surrogateescape"))
    return hasher.hexdigest()[:16]


def _keep_only(folder: Folder, key: str) -> set[str]:
    """Delete what another request, or the source as it was before, left in the folder, and the whole of a finished set;
    return the names of the rest.

    A mark says whose the shards are. Marks go first, so that no kill leaves a finished set's shards to go on from, and
    then the manifest.
    """
    names = folder.names()
    mark = f"{PARTS}/{key}/mark"
    goes_on = mark in names and FILE_NAME not in names
    rooms = (f"{PARTS}/{key}/", "train/", "val/") if goes_on else ()
    mine = {name for name in names if name.startswith(rooms) and not name.endswith(ASIDE)}
    theirs = set(names) - mine - {LOCK}
    folder.delete(sorted(theirs, key=lambda name: (not name.endswith("/mark"), name != FILE_NAME)))
    if not goes_on:
        folder.write(mark, b"")
    return mine


def _examine(folder: Folder, request: Request, item: tuple[str, list[Photograph]]) -> int:
    path, photographs = item
    return write_part(folder, path, photographs, request)


def _in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], sizes: Sequence[int], unit: str
) -> list[Result]:
    """Apply a function to each item with Ray Data, in the order of the items, with a progress bar over their sizes.

    Raises InputError where the function does.
    """
    if not items:
        return []
    least = MIN_TASKS_PER_CPU * total_cpus()
    num_tasks = min(len(items), max(least, math.ceil(len(items) / MAX_ITEMS_PER_TASK)))
    results: dict[int, Result] = {}
    with tqdm(total=sum(sizes), unit=f" {unit}", disable=None) as bar:
        for number, result in map_in_tasks(function, items, num_tasks):
            results[number] = result
            bar.update(sizes[number])
    return [results[number] for number in range(len(items))]


def _with_rejections(parts: list[list[Finding]], plan: Plan) -> list[Finding]:
    rejected = {finding.name: finding for finding in plan.rejected}
    return [rejected.get(finding.name, finding) for part in parts for finding in part]


def _count(findings: list[Finding], plan: Plan) -> dict[str, int]:
    num_val = sum(split == "val" for split in plan.splits.values())
    return {
        "found": len(findings),
        "train": len(plan.splits) - num_val,
        "val": num_val,
        "rejected": len(plan.rejected),
        "near_duplicate_groups": len(plan.alike),
        "noted": sum(bool(finding.notes) for finding in findings),
    }


def _list_rejected(rejected: list[Finding]) -> bytes:
    return "".join(
        json.dumps({"name": finding.name, "reason": finding.reason, "notes": finding.notes}) + "\n"
        for finding in rejected
    ).encode()


def _thumbnail(photographs: dict[str, Photograph], finding: Finding) -> bytes | None:
    """A small picture for the report; None for a photograph that cannot be decoded."""
    try:
        return images.thumbnail(photographs[finding.name].read(), THUMBNAIL_PX)
    except (images.UnreadableImage, OSError):
        return None
