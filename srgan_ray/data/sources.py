"""Where photographs come from, listed without reading pixels.

`samples`, `stanford-dogs` (downloaded once), or a path or URI: a folder with all that is below it, a `.tar`, a Parquet
file. Tars and Parquet files inside a folder are looked into. Nothing is unpacked.
"""

import dataclasses
import functools
import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from srgan_ray.data.download import STANFORD_DOGS, download
from srgan_ray.data.storage import absolute, below, is_uri, list_files, resolve
from srgan_ray.errors import InputError

# Colour and grey photographs inside scikit-image's wheel; of its stereo pair only the left one.
SAMPLES = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
TAR_BUFFER_BYTES = 2**20  # a tar on object storage is listed in one pass: a seek to each header would be a request each
IMAGE_COLUMNS = ("image", "img", "hr", "jpg", "jpeg", "png", "bytes")


@dataclasses.dataclass(frozen=True)
class Photograph:
    """One image of a source: `size` bytes at `offset` of the file `path`, or one row of a Parquet file."""

    name: str
    path: str
    offset: int
    size: int
    column: str = ""
    """Of a Parquet file: the column with the bytes. `offset` is the row then, `group` its row group."""
    group: int = 0
    modified_ns: int = 0
    """When a local file was last written to."""

    def read(self) -> bytes:
        """The encoded image.

        Raises InputError where the file changed since it was listed or object storage does not give it, OSError where
        a local file cannot be read.
        """
        try:
            encoded, modified_ns = (_read_row(self), 0) if self.column else _read_part(self)
        except OSError as error:
            if is_uri(self.path) or isinstance(error, FileNotFoundError):
                raise InputError(f"SOURCE: {self.path} cannot be read any more: {error}") from error
            raise
        if (len(encoded), modified_ns) != (self.size, self.modified_ns):
            raise InputError(f"SOURCE: {self.path} changed since it was listed; wanted files at rest: run it again")
        return encoded

    @property
    def breed(self) -> str:
        """The folder's name without Stanford Dogs' WordNet prefix: `n02085620-Chihuahua` gives `Chihuahua`."""
        return re.sub(r"^n\d{8}-", "", Path(self.name).parent.name)


def list_photographs(
    source: str, limit: int, seed: int, cache: str = "", mirror: str = "", out: str = ""
) -> list[Photograph]:
    """The source's files in an order drawn from `seed` and their names; the first `limit` of them (0: all).

    The order mixes the breeds, does not depend on the file system, and is the order of the rows in the shards. Rows of
    a Parquet file keep together in their row groups, which can only be read whole. `cache` and `mirror` are those of
    `stanford-dogs`. What lies below `out`, which may be in the source, is none of it. Raises InputError for a source
    that is not there, not readable or empty.
    """
    photographs = sorted(_images(source, cache, mirror, out), key=lambda photograph: _draw(seed, photograph))
    if not photographs:
        raise InputError(f"SOURCE {source} holds no file; wanted photographs")
    return photographs[:limit] if limit else photographs


def _draw(seed: int, photograph: Photograph) -> tuple[bytes, int, str]:
    drawn = f"{photograph.path}/{photograph.group}" if photograph.column else photograph.name
    key = hashlib.sha256(f"{seed}/{drawn}".encode(errors="surrogateescape")).digest()
    return key, photograph.offset if photograph.column else 0, photograph.name


def _images(source: str, cache: str, mirror: str, out: str) -> Iterator[Photograph]:
    if source == "samples":
        yield from _samples()
    elif source == "stanford-dogs":
        yield from _place(str(download(STANFORD_DOGS, Path(cache).expanduser().absolute(), mirror)))
    elif is_uri(source) or Path(source).exists():
        yield from _place(absolute(source), out)
    else:
        raise InputError(
            f"SOURCE {source} does not exist; wanted `stanford-dogs`, `samples`, a folder, a .tar, a .parquet, or a URI"
        )


def _samples() -> Iterator[Photograph]:
    folder = Path(str(files("skimage"))) / "data"
    for name in SAMPLES:
        found = (folder / name).stat()
        yield Photograph(name, str(folder / name), 0, found.st_size, modified_ns=found.st_mtime_ns)


def _place(source: str, out: str = "") -> Iterator[Photograph]:
    """The images of a path or URI, but for what lies below `out`."""
    for name, size, modified_ns in list_files(source, out):
        location = below(source, name)
        ending = location.partition("?")[0]
        if ending.endswith(".tar"):
            yield from _tar(location, name, modified_ns)
        elif ending.endswith(".parquet"):
            yield from _parquet(location, name)
        elif name:
            yield Photograph(name, location, 0, size, modified_ns=modified_ns)
        else:
            raise InputError(f"SOURCE {source} is no .tar and no .parquet; wanted one of these, or a folder")


def _tar(location: str, prefix: str, modified_ns: int) -> Iterator[Photograph]:
    """The files in a tar, which is read in place; in a folder of tars each name begins with its tar's."""
    filesystem, path = resolve(location)
    try:
        size = filesystem.get_file_info([path])[0].size
        streamed = is_uri(location)
        with filesystem.open_input_stream(path) if streamed else open(path, "rb") as file:
            mode: Any = "r|" if streamed else "r:"
            with tarfile.open(fileobj=file, mode=mode, bufsize=TAR_BUFFER_BYTES) as tar:
                for member in tar:
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError(f"{member.name} ends after the file's {size} bytes: it is cut off")
                    if member.isfile():
                        name = f"{prefix}/{member.name}" if prefix else member.name
                        yield Photograph(name, location, member.offset_data, member.size, modified_ns=modified_ns)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"SOURCE {location} cannot be read as an uncompressed tar: {error}") from error


def _parquet(location: str, prefix: str) -> Iterator[Photograph]:
    """The rows of a Parquet file, named by their label, if there is one, and their path or number; by both where
    another row has the name already."""
    try:
        yield from _rows(_open_parquet(location), location, prefix)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"SOURCE {location} cannot be read as Parquet: {error}") from error


def _rows(file: pq.ParquetFile, location: str, prefix: str) -> Iterator[Photograph]:
    column, row = _image_column(file.schema_arrow, location), 0
    taken: set[str] = set()
    label = next((name for name in ("breed", "label") if name in file.schema_arrow.names), None)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, [column, label] if label else [column])
        labels = table.column(label).to_pylist() if label else [""] * len(table)
        for number, (value, of) in enumerate(zip(table.column(column).to_pylist(), labels)):
            encoded, path = _bytes_and_path(value)
            numbered = f"row_{row + number:08d}"
            name = "/".join(part for part in (prefix, str(of), path or numbered) if part)
            if name in taken:
                name = f"_{numbered}".join(os.path.splitext(name))
            taken.add(name)
            yield Photograph(name, location, row + number, len(encoded), column, group)
        row += len(table)


def _image_column(schema: pa.Schema, location: str) -> str:
    """The column that holds encoded images: bytes, or a struct with `bytes` in it as Hugging Face writes them."""
    found = [field.name for field in schema if _is_binary(field.type)]
    named = [name for name in IMAGE_COLUMNS if name in found] or found
    if not named:
        raise InputError(f"SOURCE {location} has the columns {', '.join(schema.names)}; wanted one with encoded images")
    return named[0]


def _is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _bytes_and_path(value: Any) -> tuple[bytes, str]:
    if isinstance(value, dict):
        return value["bytes"] or b"", value.get("path") or ""
    return value or b"", ""


def _read_part(photograph: Photograph) -> tuple[bytes, int]:
    if not is_uri(photograph.path):
        with open(photograph.path, "rb") as local:
            local.seek(photograph.offset)
            return local.read(photograph.size), os.fstat(local.fileno()).st_mtime_ns
    filesystem, path = resolve(photograph.path)
    with filesystem.open_input_file(path) as remote:
        return bytes(remote.read_at(photograph.size, photograph.offset)), 0


def _read_row(photograph: Photograph) -> bytes:
    first, values = _read_group(photograph.path, photograph.group, photograph.column)
    return _bytes_and_path(values[photograph.offset - first].as_py())[0]


@functools.lru_cache(maxsize=2)  # rows come in the order of their row groups
def _read_group(location: str, group: int, column: str) -> tuple[int, pa.ChunkedArray]:
    file = _open_parquet(location)
    first = sum(file.metadata.row_group(number).num_rows for number in range(group))
    return first, file.read_row_group(group, [column]).column(column)


def _open_parquet(location: str) -> pq.ParquetFile:
    filesystem, path = resolve(location)
    return pq.ParquetFile(filesystem.open_input_file(path))
