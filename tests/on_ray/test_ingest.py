"""Preparation through Ray Data, with faults planted among the photographs."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from fakes import photograph
from srgan_ray.data import images
from srgan_ray.data.manifest import Request, find_finished, read_manifest
from srgan_ray.data.shards import ShardSet
from srgan_ray.data.sources import list_photographs
from srgan_ray.errors import InputError

pytestmark = pytest.mark.ray


def prepare(request: Request, folder: Path) -> dict:
    from srgan_ray.on_ray import ingest

    return ingest.prepare(list_photographs(request.source, request.limit, request.seed), request, folder)


def rows_of(folder: Path) -> dict[str, list]:
    return {
        split: [ShardSet(folder, split)[index] for index in range(len(ShardSet(folder, split)))]
        for split in ("train", "val")
    }


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 good photographs, one of them twice, one with a lying name, and four bad files."""
    folder = tmp_path_factory.mktemp("faulty")
    for number in range(70):
        (folder / f"{number:02d}.png").write_bytes(images.encode(photograph(number, 48, 48 + number % 4), "png"))
    (folder / "copy.png").write_bytes((folder / "05.png").read_bytes())
    Image.fromarray(photograph(6, 48, 50)).save(folder / "recompressed.png", compress_level=9)  # 06.png's pixels
    (folder / "69.png").rename(folder / "69.jpg")
    Image.fromarray(photograph(200, 40, 200)).save(folder / "small.png")
    (folder / "text.jpg").write_text("no photograph")
    whole = images.encode(photograph(201, 200, 200), "jpeg")
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def prepared(faulty: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "shards"
    prepare(Request(str(faulty), min_side_px=48, val_fraction=0.1), folder)
    return folder


def test_good_photographs_become_rows_once(prepared: Path) -> None:
    rows = rows_of(prepared)
    ids = [row.id for split in rows.values() for row in split]
    assert len(ids) == len(set(ids)) == 70
    assert 1 <= len(rows["val"]) < 25
    assert all(row.height == row.width == 48 for split in rows.values() for row in split)


def test_bad_files_are_listed_with_their_reasons(prepared: Path) -> None:
    lines = (prepared / "rejected.jsonl").read_text().splitlines()
    reasons = {row["name"]: row["reason"] for row in map(json.loads, lines)}
    expected = {"small.png": "200x40", "text.jpg": "not an image", "truncated.jpg": "truncated", "empty.png": "not an"}
    assert {name: text in reasons[name] for name, text in expected.items()} == dict.fromkeys(expected, True)
    same = {name for name, reason in reasons.items() if "the same pixels as" in reason}
    assert len(same) == 2
    assert same <= {"05.png", "copy.png", "06.png", "recompressed.png"}
    assert len(reasons) == 6


def test_the_manifest_says_what_is_there(prepared: Path) -> None:
    manifest = read_manifest(prepared)
    assert manifest.counts["found"] == 76
    assert manifest.counts["rejected"] == 6
    assert manifest.counts["train"] + manifest.counts["val"] == 70
    assert manifest.scale == 4
    assert manifest.request.degradations == ("opencv_cubic", "matlab_bicubic")
    assert {"ray", "pillow", "opencv-python-headless", "srgan-ray"} <= set(manifest.versions)
    for shard in manifest.shards:
        table = pq.read_table(prepared / shard.path)
        assert table.num_rows == shard.num_rows
        assert table.column_names == ["id", "breed", "hr", "lr_opencv_cubic", "lr_matlab_bicubic", "height", "width"]


def test_the_same_request_makes_the_same_bytes(prepared: Path, faulty: Path, tmp_path: Path) -> None:
    (tmp_path / "again" / "train").mkdir(parents=True)
    (tmp_path / "again" / "train" / "00009.parquet").write_bytes(b"left by a prepare that was killed")
    prepare(Request(str(faulty), min_side_px=48, val_fraction=0.1), tmp_path / "again")
    first, again = (
        {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (prepared, tmp_path / "again")
    )
    assert first == again


def test_limit_degradations_and_seed(faulty: Path, ray_cluster: None, tmp_path: Path) -> None:
    request = Request(str(faulty), limit=12, seed=3, degradations=("matlab_bicubic",), min_side_px=48)
    summary = prepare(request, tmp_path / "few")
    assert summary["found"] == 12
    assert all(set(row.lr) == {"matlab_bicubic"} for row in rows_of(tmp_path / "few")["train"])
    assert find_finished(request, tmp_path / "few") == read_manifest(tmp_path / "few")


def test_without_two_usable_photographs_nothing_valid_is_left(ray_cluster: None, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.png").write_bytes(images.encode(photograph(0), "png"))
    (tmp_path / "in" / "bad.png").write_bytes(b"bad")
    with pytest.raises(InputError, match="1 usable"):
        prepare(Request(str(tmp_path / "in")), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
