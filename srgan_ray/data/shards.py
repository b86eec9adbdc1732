"""Photographs to rows, rows to Parquet files.

1. `write_part` examines some photographs, each decoded once: what was found, and its row, go to one part file.
2. With every finding known, `plan_shards` drops duplicates, splits, and cuts the rows into shards.
3. `write_shard` collects the rows of one shard from the parts. No pixel is touched again.

Parts and shards appear whole, and their content depends on the photographs and the request alone, so that what is
there needs not be made again.
"""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from srgan_ray.data import forensics, images
from srgan_ray.data.degrade import DEGRADATIONS, SCALE
from srgan_ray.data.forensics import Finding
from srgan_ray.data.manifest import Request, Shard, split_ids
from srgan_ray.data.sources import Photograph
from srgan_ray.data.storage import Folder

Item = TypeVar("Item")

ROWS_PER_SHARD = 64
PIXELS_PER_SHARD = 2**25  # of HR: 64 Stanford Dogs are 12 million; two of 12 megapixels in a shard bound what is read
ROWS_PER_GROUP = 8  # what one random read costs
READS_AHEAD = 8  # on object storage a read is mostly waiting
FINDING_SCHEMA = pa.schema(
    [
        ("name", pa.binary()),  # file names need not be UTF-8
        ("breed", pa.binary()),
        ("id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("num_bytes", pa.int64()),
        ("format", pa.string()),
        ("jpeg_quality", pa.int32()),
        ("blockiness", pa.float64()),
        ("detail", pa.float64()),
        ("signature", pa.binary()),
        ("notes", pa.list_(pa.string())),
        ("reason", pa.string()),
    ]
)


class Place(NamedTuple):
    """Where the row of a kept photograph lies: which part, and which row of it."""

    part: int
    row: int


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """A shard to be written: its path, its split, and the places of its rows in order."""

    path: str
    split: str
    places: tuple[Place, ...]


class Plan(NamedTuple):
    """What the findings lead to. `rejected` holds the duplicates too; `alike` the groups that look alike, kept."""

    splits: dict[str, str]
    shards: list[ShardPlan]
    rejected: list[Finding]
    alike: list[list[Finding]]


def examine(photograph: Photograph, encoded: bytes, request: Request) -> tuple[Finding, dict[str, bytes]]:
    """What is found out about a photograph and, unless it is rejected, the images of its row: `hr` and each `lr_…`.

    `hr` is the original file wherever any decoder gives the same pixels for it, else a lossless copy. It may be up to 3
    pixels larger than `height` x `width`, the crop box, whose corner is the top left one.
    """
    try:
        finding = forensics.find_faults(photograph.name, photograph.breed, encoded)
        image = images.decode(encoded)
    except images.UnreadableImage as error:
        return Finding(photograph.name, photograph.breed, num_bytes=len(encoded), reason=str(error)), {}
    hr = images.crop_to_multiple(image, SCALE)
    height, width = hr.shape[:2]
    finding = dataclasses.replace(finding, height=height, width=width)
    if min(height, width) < request.min_side_px:
        reason = f"too small: {width}x{height} pixels; the smaller side must be {request.min_side_px} or more"
        return dataclasses.replace(finding, reason=reason), {}
    if images.is_one_colour(hr[SCALE:-SCALE, SCALE:-SCALE]):  # where PSNR is measured
        return dataclasses.replace(finding, reason="one colour: there is nothing to restore"), {}
    finding = dataclasses.replace(forensics.measure(finding, hr), id=_hash_pixels(hr))
    kept = encoded if images.read_traits(encoded).is_plain else images.encode_lossless(hr)
    lr = {f"lr_{name}": images.encode_lossless(DEGRADATIONS[name](hr)) for name in request.degradations}
    return finding, {"hr": kept, **lr}


def write_part(folder: Folder, path: str, photographs: Sequence[Photograph], request: Request) -> int:
    """Examine photographs and write what was found, and their rows, as one file. Returns their number.

    Raises InputError where one of them changed since it was listed.
    """
    with ThreadPoolExecutor(READS_AHEAD) as executor:
        examined = [
            _examine_read(photograph, encoded, request)
            for photograph, encoded in zip(photographs, executor.map(_read, photographs))
        ]
    findings = [finding for finding, _ in examined]
    columns: dict[str, Any] = {
        "name": [finding.name.encode(errors="surrogateescape") for finding in findings],
        "breed": [finding.breed.encode(errors="surrogateescape") for finding in findings],
        **{name: [getattr(finding, name) for finding in findings] for name in FINDING_SCHEMA.names[2:]},
    }
    table = pa.table(columns, FINDING_SCHEMA)
    for name in ("hr", *(f"lr_{degradation}" for degradation in request.degradations)):
        table = table.append_column(name, pa.array([row.get(name) for _, row in examined], pa.large_binary()))
    folder.write(path, _to_parquet(table))
    return len(findings)


def read_findings(folder: Folder, path: str) -> list[Finding]:
    """What a part says of its photographs, in their order."""
    with folder.open(path) as file:
        rows = pq.ParquetFile(file).read(FINDING_SCHEMA.names).to_pylist()
    return [
        Finding(
            **{
                **row,
                "name": row["name"].decode(errors="surrogateescape"),
                "breed": row["breed"].decode(errors="surrogateescape"),
                "notes": tuple(row["notes"]),
            }
        )
        for row in rows
    ]


def plan_shards(parts: Sequence[Sequence[Finding]], request: Request) -> Plan:
    """Duplicates out, look-alikes on one side of the split, and each split cut into shards, in the order of the parts.

    Raises InputError where too few photographs are left.
    """
    first: dict[str, Finding] = {}
    places: dict[str, Place] = {}
    rejected = []
    for part, findings in enumerate(parts):
        for row, finding in enumerate(findings):
            if finding.reason:
                rejected.append(finding)
            elif (kept := first.setdefault(finding.id, finding)) is not finding:
                rejected.append(dataclasses.replace(finding, reason=f"duplicate: the same pixels as {kept.name}"))
            else:
                places[finding.id] = Place(part, row)
    kept_findings = list(first.values())
    alike = [
        [kept_findings[index] for index in group]
        for group in forensics.group_alike([finding.signature for finding in kept_findings])
    ]
    ids = [[finding.id for finding in group] for group in alike]
    splits = split_ids(list(first), request.seed, request.val_fraction, ids)
    shards = [
        ShardPlan(f"{split}/{number:05d}.parquet", split, tuple(places[finding.id] for finding in shard))
        for split in ("train", "val")
        for number, shard in enumerate(
            _cut_shards([finding for finding in kept_findings if splits[finding.id] == split])
        )
    ]
    return Plan(splits, shards, rejected, alike)


def in_parts(items: Iterable[Item], size: Callable[[Item], int], most: int, most_items: int) -> list[list[Item]]:
    """The items in their order, in parts of one item at least: of no more than `most` in size together, and of no more
    than so many."""
    parts: list[list[Item]] = []
    total = 0
    for item in items:
        total += size(item)
        if not parts or len(parts[-1]) == most_items or total > most:
            parts.append([])
            total = size(item)
        parts[-1].append(item)
    return parts


def write_shard(folder: Folder, plan: ShardPlan, part_paths: Sequence[str], request: Request) -> Shard:
    """Write one shard, unless it is there, and return its entry for the manifest."""
    if folder.has(plan.path):
        content = folder.read(plan.path)
    else:
        content = _to_parquet(_collect(folder, plan, part_paths, request))
        folder.write(plan.path, content)
    sizes = pq.ParquetFile(io.BytesIO(content)).read(["height", "width"]).to_pydict()
    num_pixels = sum(height * width for height, width in zip(sizes["height"], sizes["width"]))
    sha256 = hashlib.sha256(content).hexdigest()
    return Shard(plan.path, plan.split, len(plan.places), num_pixels, len(content), sha256)


def _cut_shards(findings: list[Finding]) -> list[list[Finding]]:
    return in_parts(findings, lambda finding: finding.height * finding.width, PIXELS_PER_SHARD, ROWS_PER_SHARD)


def _collect(folder: Folder, plan: ShardPlan, part_paths: Sequence[str], request: Request) -> pa.Table:
    """The rows of a shard, in its order."""
    columns = ["id", "breed", "hr", *(f"lr_{name}" for name in request.degradations), "height", "width"]
    by_part: dict[int, list[int]] = {}
    for part, row in plan.places:
        by_part.setdefault(part, []).append(row)
    tables = []
    for part, rows in by_part.items():  # the places are in the order of the parts
        with folder.open(part_paths[part]) as file:
            tables.append(pq.ParquetFile(file).read(columns).take(rows))
    table = pa.concat_tables(tables)
    breeds = [breed.decode(errors="replace") for breed in table.column("breed").to_pylist()]
    return table.set_column(1, "breed", pa.array(breeds)).select(columns)


def _read(photograph: Photograph) -> bytes | OSError:
    try:
        return photograph.read()
    except OSError as error:
        return error


def _examine_read(
    photograph: Photograph, encoded: bytes | OSError, request: Request
) -> tuple[Finding, dict[str, bytes]]:
    if isinstance(encoded, OSError):
        return Finding(photograph.name, photograph.breed, reason=f"unreadable file: {encoded.strerror or encoded}"), {}
    return examine(photograph, encoded, request)


def _to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=ROWS_PER_GROUP,
        compression="none",  # the images are compressed already
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    return buffer.getvalue()


def _hash_pixels(image: np.ndarray) -> str:
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:32]
