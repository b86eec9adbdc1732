import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakes import photograph
from srgan_ray.data import images
from srgan_ray.data.degrade import DEGRADATIONS
from srgan_ray.data.manifest import Request, find_finished, read_manifest, split_ids
from srgan_ray.data.shards import ShardSet, inspect, make_row, write_shard
from srgan_ray.data.sources import SAMPLES, list_photographs
from srgan_ray.errors import InputError


def test_rows_hold_hr_and_every_lr(shards: Path) -> None:
    rows = ShardSet(shards, "train")
    assert len(rows) == 4
    for index in range(len(rows)):
        row = rows[index]
        hr = images.decode(row.hr)
        assert hr.shape == (row.height, row.width, 3) == (120, 152, 3)
        assert set(row.lr) == set(DEGRADATIONS)
        for name, lr in row.lr.items():
            np.testing.assert_array_equal(images.decode(lr), DEGRADATIONS[name](hr))
        assert row.breed in ("breed_0", "breed_1")
    with pytest.raises(IndexError):
        rows[4]


def test_rows_are_read_by_index_across_row_groups(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(19):  # three row groups
        Image.fromarray(np.full((48, 48, 3), 10 * number, np.uint8)).save(folder / f"{number}.png")
    findings = [inspect(file, 48) for file in list_photographs(str(folder), 0, 0)]
    shard = write_shard(tmp_path, "train/0.parquet", "train", findings, ["opencv_cubic"])
    (tmp_path / "manifest.json").write_text(
        json.dumps(
            {
                "request": {"source": "", "degradations": ["opencv_cubic"]},
                "counts": {},
                "shards": [vars(shard)],
                "data_hash": "",
                "versions": {},
                "schema_version": 1,
            }
        )
    )
    rows = ShardSet(tmp_path, "train")
    assert [rows[index].id for index in range(19)] == [finding.id for finding in findings]


def test_original_bytes_are_kept_where_nothing_is_cropped(tmp_path: Path) -> None:
    Image.fromarray(photograph(0)).save(tmp_path / "whole.jpg", quality=80)
    Image.fromarray(photograph(0, 121, 154)).save(tmp_path / "odd.jpg", quality=80)
    Image.fromarray(photograph(0)).save(tmp_path / "layers.png")
    rows = {file.name: make_row(file, ["matlab_bicubic"]) for file in list_photographs(str(tmp_path), 0, 0)}
    assert rows["whole.jpg"].hr == (tmp_path / "whole.jpg").read_bytes()
    assert images.read_header(rows["odd.jpg"].hr) == ("PNG", 152, 120)
    odd = images.decode((tmp_path / "odd.jpg").read_bytes())
    np.testing.assert_array_equal(images.decode(rows["odd.jpg"].hr), odd[:120, :152])


def test_bad_files_are_told_apart(tmp_path: Path) -> None:
    Image.fromarray(photograph(0, 90, 200)).save(tmp_path / "small.png")
    (tmp_path / "text.jpg").write_text("no photograph")
    Image.fromarray(photograph(1)).save(tmp_path / "png_called.jpg", "PNG")
    reasons = {file.name: inspect(file, 96).reason for file in list_photographs(str(tmp_path), 0, 0)}
    assert "200x88" in reasons["small.png"]
    assert "96" in reasons["small.png"]
    assert "not an image" in reasons["text.jpg"]
    assert reasons["png_called.jpg"] == ""


def test_a_photograph_that_changes_is_noticed(tmp_path: Path) -> None:
    Image.fromarray(photograph(0)).save(tmp_path / "a.png")
    finding = inspect(list_photographs(str(tmp_path), 0, 0)[0], 48)
    Image.fromarray(photograph(1)).save(tmp_path / "a.png")
    with pytest.raises((RuntimeError, images.UnreadableImage)):
        write_shard(tmp_path, "train/0.parquet", "train", [finding], ["opencv_cubic"])
    assert not (tmp_path / "train" / "0.parquet").exists()


def test_tar_is_read_in_place_like_the_folder(photographs: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "dogs.tar", "w") as tar:
        tar.add(photographs, "Images")
    inside = list_photographs(str(tmp_path / "dogs.tar"), 0, 0)
    assert len(inside) == 8
    for file in inside:
        assert file.read() == (photographs / Path(file.name).relative_to("Images")).read_bytes()
        assert file.breed == f"breed_{Path(file.name).parent.name[-1]}"


def test_samples_are_photographs_at_hand() -> None:
    assert {file.name for file in list_photographs("samples", 0, 0)} == set(SAMPLES)
    assert all(not inspect(file, 96).reason for file in list_photographs("samples", 0, 0))


def test_limit_takes_the_same_files_for_a_seed_whatever_else(photographs: Path) -> None:
    first = [file.name for file in list_photographs(str(photographs), 3, seed=5)]
    assert first == [file.name for file in list_photographs(str(photographs), 0, seed=5)][:3]
    assert first != [file.name for file in list_photographs(str(photographs), 3, seed=6)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/place", "does not exist"),
        ("stanford-dogs", "images.tar"),
        (__file__, "is no .tar"),
        ("broken.tar", "tar"),
    ],
)
def test_bad_sources_are_refused_in_words(source: str, message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.tar").write_bytes(b"x" * 2000)
    with pytest.raises(InputError, match=message):
        list_photographs(source, 0, 0)


def test_empty_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        list_photographs(str(tmp_path), 0, 0)
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(InputError, match="no file"):
        list_photographs(str(tmp_path / "empty.tar"), 0, 0)


def test_split_is_a_function_of_content_and_seed() -> None:
    ids = [f"{number:032x}" for number in range(2000)]
    splits = split_ids(ids, 0, 0.05)
    assert 60 < sum(split == "val" for split in splits.values()) < 140
    assert split_ids(ids[::-1], 0, 0.05) == splits
    part = split_ids(ids[:1000], 0, 0.05)
    assert sum(part[id] != splits[id] for id in part) <= 2  # only the guard against an empty split may differ
    assert split_ids(ids, 1, 0.05) != splits


@pytest.mark.parametrize("val_fraction", [1e-9, 1 - 1e-9])
def test_neither_split_is_empty(val_fraction: float) -> None:
    assert set(split_ids(["a", "b"], 0, val_fraction).values()) == {"train", "val"}
    with pytest.raises(InputError, match="2 or more"):
        split_ids(["a"], 0, val_fraction)


def test_a_shard_set_is_valid_only_with_its_manifest(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json"):
        ShardSet(tmp_path, "train")
    (tmp_path / "manifest.json").write_text('{"schema_version": 1')
    with pytest.raises(InputError, match="damaged"):
        ShardSet(tmp_path, "train")
    newer = {**json.loads((shards / "manifest.json").read_text()), "schema_version": 99}
    (tmp_path / "manifest.json").write_text(json.dumps(newer))
    with pytest.raises(InputError, match="99"):
        ShardSet(tmp_path, "train")


def test_a_set_that_lost_a_shard_is_refused(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text((shards / "manifest.json").read_text())
    with pytest.raises(InputError, match=r"train/00000\.parquet"):
        ShardSet(tmp_path, "train")


def test_a_finished_set_is_found_again_and_another_is_refused(shards: Path, tmp_path: Path) -> None:
    request = read_manifest(shards).request
    assert find_finished(request, shards) == read_manifest(shards)
    assert find_finished(request, tmp_path / "new") is None
    with pytest.raises(InputError, match="seed = 0, now 7"):
        find_finished(Request(request.source, seed=7, val_fraction=0.5, min_side_px=48), shards)
    (tmp_path / "val").mkdir()
    assert find_finished(request, tmp_path) is None, "left by a prepare that was killed"
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        find_finished(request, tmp_path)


def test_photographs_read_their_own_bytes_only(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "two.tar", "w") as tar:
        for name, content in (("a", b"first"), ("b", b"second one")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert {file.name: file.read() for file in list_photographs(str(tmp_path / "two.tar"), 0, 0)} == {
        "a": b"first",
        "b": b"second one",
    }
