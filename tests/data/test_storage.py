"""Local disk and a local S3 behave the same, and what they refuse is said in words."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fakes import make_shards
from srgan_ray.data.crops import CropConfig
from srgan_ray.data.feed import Feed
from srgan_ray.data.manifest import Request, read_manifest
from srgan_ray.data.sources import list_photographs
from srgan_ray.data.storage import ASIDE, Folder, below
from srgan_ray.errors import InputError


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return Folder(tmp_path / "folder")
    return Folder(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")


def test_files_are_written_listed_read_and_deleted(folder: Folder) -> None:
    assert folder.names() == []
    assert not folder.has("a/b.bin")
    folder.write("a/b.bin", b"one")
    folder.write("c.bin", b"two")
    folder.write("c.bin", b"three")
    assert folder.names() == ["a/b.bin", "c.bin"]
    assert folder.has("a/b.bin")
    assert (folder.read("a/b.bin"), folder.read("c.bin")) == (b"one", b"three")
    folder.delete(["a/b.bin"])
    assert folder.names() == ["c.bin"]
    assert not folder.has("a/b.bin")


def test_emptied_folders_go_too(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "folder")
    folder.write("parts/key/0.bin", b"")
    folder.write("train/0.bin", b"")
    folder.delete(["parts/key/0.bin"])
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"train"}


def test_a_full_disk_leaves_nothing_and_is_named(tmp_path: Path, monkeypatch) -> None:
    folder = Folder(tmp_path)
    folder.write("a.bin", b"whole")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=f"--out {tmp_path}: a.bin.*No space left"):
        folder.write("a.bin", b"half")
    assert folder.names() == ["a.bin"]
    assert folder.read("a.bin") == b"whole"


def test_a_file_in_a_folders_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(InputError, match="name cannot be written"):
        Folder(tmp_path).write("name", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_a_kill_while_writing_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from srgan_ray.data.storage import Folder\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Folder(sys.argv[1]).write('a.bin', b'half')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert Folder(tmp_path).names() == [f"a.bin{ASIDE}"]


@pytest.mark.parametrize(
    ("location", "name", "expected"),
    [
        ("/a/b", "c/d", "/a/b/c/d"),
        ("/a/b/", "c", "/a/b/c"),
        ("/a/b?c", "d", "/a/b?c/d"),
        ("s3://a/b?region=x", "c", "s3://a/b/c?region=x"),
        ("s3://a/b?region=x", "", "s3://a/b?region=x"),
    ],
)
def test_locations_below_another(location: str, name: str, expected: str) -> None:
    assert below(location, name) == expected


def test_photographs_and_shards_on_object_storage(photographs: Path, shards: Path, bucket: str) -> None:
    """The same source, shards and batches as on local disk."""
    for path in photographs.rglob("*.png"):
        Folder(f"{bucket}/in").write(str(path.relative_to(photographs)), path.read_bytes())
    local = list_photographs(str(photographs), 0, 0)
    remote = list_photographs(f"{bucket}/in", 0, 0)
    assert sorted(file.name for file in remote) == sorted(file.name for file in local)
    assert [file.read() for file in remote] == [file.read() for file in local]
    request = Request(f"{bucket}/in", val_fraction=0.5, min_side_px=48)
    assert make_shards(f"{bucket}/shards", request).data_hash == read_manifest(shards).data_hash
    config = CropConfig(batch_size=4, crop_px=48)
    for step in (1, 5):
        ours, theirs = (Feed(place, config).batch(step) for place in (f"{bucket}/shards", shards))
        assert ours.hr.equal(theirs.hr)
        assert ours.lr.equal(theirs.lr)


def test_a_tar_on_object_storage(photographs: Path, bucket: str, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "dogs.tar", "w") as tar:
        tar.add(photographs, "Images")
    Folder(bucket).write("dogs.tar", (tmp_path / "dogs.tar").read_bytes())
    local, remote = (list_photographs(f"{place}/dogs.tar", 0, 0) for place in (tmp_path, bucket))
    assert [(file.name, file.read()) for file in remote] == [(file.name, file.read()) for file in local]


def test_a_parquet_file_on_object_storage(photographs: Path, bucket: str, tmp_path: Path) -> None:
    contents = [path.read_bytes() for path in sorted(photographs.rglob("*.png"))]
    pq.write_table(pa.table({"image": contents}), tmp_path / "dogs.parquet", row_group_size=3)
    Folder(bucket).write("dogs.parquet", (tmp_path / "dogs.parquet").read_bytes())
    local, remote = (list_photographs(f"{place}/dogs.parquet", 0, 0) for place in (tmp_path, bucket))
    assert sorted(file.read() for file in remote) == sorted(contents)
    assert sorted(file.name for file in remote) == sorted(file.name for file in local)


def test_a_bucket_without_permission_is_named(bucket: str) -> None:
    with pytest.raises(InputError, match="s3://not-there/in cannot be read"):
        list_photographs("s3://not-there/in", 0, 0)
    with pytest.raises(InputError, match=r"s3://not-there/out: a\.bin cannot be written"):
        Folder("s3://not-there/out").write("a.bin", b"")
    with pytest.raises(InputError, match="does not exist"):
        list_photographs(f"{bucket}/nothing", 0, 0)
