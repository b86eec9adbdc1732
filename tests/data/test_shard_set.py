import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fakes import make_small_shards
from srgan_ray.data import images
from srgan_ray.data.degrade import DEGRADATIONS
from srgan_ray.data.feed import decode_row
from srgan_ray.data.shard_set import ShardSet
from srgan_ray.data.storage import Folder
from srgan_ray.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """27 rows for training in shards of 10, their row groups of 4; HR is up to 3 pixels larger than the crop box."""
    folder = tmp_path_factory.mktemp("shards")
    make_small_shards(folder, 28, (48, 56), rows_per_shard=10, rows_per_group=4)
    return folder


@pytest.fixture(params=["local", "s3"])
def location(request: pytest.FixtureRequest, folder: Path) -> str:
    if request.param == "local":
        return str(folder)
    uri = f"{request.getfixturevalue('bucket')}/{folder.name}"
    for name in Folder(folder).names():
        Folder(uri).write(name, Folder(folder).read(name))
    return uri


def test_rows_are_those_of_the_files_in_order(folder: Path, location: str) -> None:
    rows = ShardSet(location, "train")
    files = sorted((folder / "train").glob("*.parquet"))
    expected = [id for file in files for id in pq.read_table(file).column("id").to_pylist()]
    assert len(files) > 2
    assert len(rows) == len(expected) == sum(shard.num_rows for shard in rows.shards)
    assert [rows[index].id for index in range(len(rows))] == expected
    wanted = [25, 0, 13, 9, 10, 13, 24]
    assert {index: row.id for index, row in rows.read(wanted).items()} == {index: expected[index] for index in wanted}
    assert rows.read([]) == {}
    for index in (-1, len(rows)):
        with pytest.raises(IndexError, match=f"row {index} of {len(rows)}"):
            rows[index]


def test_decoded_hr_is_what_lr_was_made_from(folder: Path) -> None:
    sizes = set()
    for row in ShardSet(folder, "train").read(range(10)).values():
        image = decode_row(row)
        assert image.hr.shape == (row.height, row.width, 3)
        assert image.lr.keys() == DEGRADATIONS.keys()
        assert all(np.array_equal(DEGRADATIONS[name](image.hr), lr) for name, lr in image.lr.items())
        sizes.add(images.decode(row.hr).shape[:2] == (row.height, row.width))
    assert sizes == {True, False}


def test_each_file_is_opened_once_for_the_groups_and_columns_that_are_wanted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, groups = [], []
    open_file, read_groups = Folder.open, pq.ParquetFile.read_row_groups
    rows = ShardSet(folder, "train", ["opencv_cubic"])

    def spy_open(folder: Folder, name: str) -> object:
        opened.append(name)
        return open_file(folder, name)

    def spy_read(file: pq.ParquetFile, numbers: list[int], columns: list[str], **options: bool) -> object:
        groups.append(numbers)
        assert "lr_opencv_cubic" in columns
        assert "lr_matlab_bicubic" not in columns
        return read_groups(file, numbers, columns, **options)

    monkeypatch.setattr(Folder, "open", spy_open)
    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", spy_read)
    found = rows.read([9, 0, 1, 24])
    assert opened == ["train/00000.parquet", "train/00002.parquet"]
    assert groups == [[0, 2], [1]]
    assert all(set(row.lr) == {"opencv_cubic"} for row in found.values())


def test_threads_may_read_at_the_same_time(location: str) -> None:
    rows = ShardSet(location, "train")
    expected = rows.read(range(len(rows)))
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(rows.__getitem__, list(range(len(rows))) * 2))
    assert found == list(expected.values()) * 2


def test_one_changed_byte_in_the_middle_of_an_image_is_told(folder: Path, location: str) -> None:
    name = ShardSet(folder, "train").shards[0].path
    whole = Folder(folder).read(name)
    hr = ShardSet(folder, "train")[5].hr
    middle = whole.index(hr) + len(hr) // 2
    damaged = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    Folder(location).write(name, damaged)
    try:
        rows = ShardSet(location, "train")
        assert len(rows.read([0, 3, 8])) == 3  # of other row groups
        with pytest.raises(InputError, match=r"00000\.parquet is damaged .*: prepare again with --overwrite"):
            rows.read([6])
    finally:
        Folder(location).write(name, whole)


def test_a_set_that_lost_a_shard_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "set")
    (tmp_path / "set" / "train" / "00001.parquet").unlink()
    with pytest.raises(InputError, match=r"lacks train/00001\.parquet.*: prepare again with --overwrite"):
        ShardSet(tmp_path / "set", "train")
    assert len(ShardSet(tmp_path / "set", "val")) == 1
