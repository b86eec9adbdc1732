"""Preparation through Ray Data, with faults planted among the photographs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from fakes import photograph
from srgan_ray.data import images
from srgan_ray.data.manifest import PrepareConfig, Request, find_finished, read_manifest
from srgan_ray.data.shard_set import ShardSet
from srgan_ray.data.sources import list_photographs
from srgan_ray.data.storage import LOCK, Folder
from srgan_ray.errors import InputError

pytestmark = pytest.mark.ray
FILES = ("manifest.json", "rejected.jsonl", "report.html")


def prepare(request: Request, location: Path | str) -> dict:
    from srgan_ray.on_ray import ingest

    return ingest.prepare(list_photographs(request.source, request.limit, request.seed), request, Folder(location))


def rows_of(location: Path | str) -> dict[str, list]:
    sets = {split: ShardSet(location, split) for split in ("train", "val")}
    return {split: [rows[index] for index in range(len(rows))] for split, rows in sets.items()}


def files_of(root: Path) -> dict[str, bytes]:
    """All but the command's lock."""
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if name != LOCK}


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
    same = {name for name, reason in reasons.items() if "duplicate: the same pixels as" in reason}
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


def test_the_report_is_there_and_the_parts_are_gone(prepared: Path) -> None:
    assert {path.name for path in prepared.iterdir()} == {"train", "val", *FILES}
    page = (prepared / "report.html").read_text()
    assert "wrong ending" in page
    assert "duplicate: the same pixels as" in page


def test_the_same_request_makes_the_same_bytes(prepared: Path, faulty: Path, tmp_path: Path) -> None:
    for name in ("train/00009.parquet", "val/00000.parquet", "parts/other/000000.parquet", "rejected.jsonl"):
        Folder(tmp_path / "again").write(name, b"left by another prepare that was killed")
    prepare(Request(str(faulty), min_side_px=48, val_fraction=0.1), tmp_path / "again")
    assert files_of(prepared) == files_of(tmp_path / "again")


def test_what_was_done_is_not_done_again(prepared: Path, faulty: Path, tmp_path: Path, monkeypatch) -> None:
    from srgan_ray.on_ray import ingest

    request, times = Request(str(faulty), min_side_px=48, val_fraction=0.1), []

    def stop(*_: object) -> None:
        files = (path for path in (tmp_path / "again").rglob("*.parquet"))
        times.append({path.name: path.stat().st_mtime_ns for path in files})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "PART_BYTES", 20_000)
        patch.setattr(ingest, "write_manifest", stop)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                prepare(request, tmp_path / "again")
    assert times[0] == times[1]
    assert len(times[0]) > 10
    monkeypatch.setattr(ingest, "PART_BYTES", 20_000)
    Folder(tmp_path / "again").write("train/00000.parquet.writing", b"half")
    lost = next((tmp_path / "again" / "parts").rglob("000003.parquet"))
    lost.unlink()
    prepare(request, tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").rglob("*.*")} == {path.name for path in prepared.rglob("*.*")}
    assert read_manifest(tmp_path / "again").data_hash == read_manifest(prepared).data_hash


def test_what_another_request_left_is_deleted_but_not_the_lock(tmp_path: Path) -> None:
    from srgan_ray.on_ray import ingest

    folder = Folder(tmp_path)
    for name in ("train/00000.parquet", "parts/other/000000.parquet"):
        folder.write(name, b"left by another prepare that was killed")
    with folder.locked():
        assert ingest._keep_only(folder, "key") == set()
        assert folder.names() == [LOCK, "parts/key/mark"]
        with pytest.raises(InputError, match="another command is at work"), folder.locked():
            pass


def test_a_finished_set_is_made_anew_and_a_kill_on_the_way_keeps_none_of_it(
    prepared: Path, faulty: Path, tmp_path: Path, monkeypatch
) -> None:
    """Also where the set was killed between its manifest and the end of its parts, which would be gone on from."""
    from srgan_ray.on_ray import ingest

    request, folder = Request(str(faulty), min_side_px=48, val_fraction=0.1), Folder(tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "delete_parts", lambda *_: None)
        prepare(request, folder.location)
    folder.write("train/00000.parquet", folder.read("val/00000.parquet"))
    delete = Folder.delete

    def stop(folder: Folder, names: list[str]) -> None:
        names = list(names)
        delete(folder, names[: names.index("manifest.json") + 1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "delete", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(request, folder.location)
    assert not folder.has("manifest.json")
    prepare(request, folder.location)
    assert files_of(tmp_path / "set") == files_of(prepared)


def test_another_request_begins_anew(faulty: Path, ray_cluster: None, tmp_path: Path, monkeypatch) -> None:
    from srgan_ray.on_ray import ingest

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "write_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(Request(str(faulty), min_side_px=48), tmp_path / "set")
    for seed in (5, 6):  # the second one replaces a finished set
        other = Request(str(faulty), min_side_px=48, seed=seed)
        prepare(other, tmp_path / "set")
        prepare(other, tmp_path / f"fresh_{seed}")
        assert files_of(tmp_path / "set") == files_of(tmp_path / f"fresh_{seed}")


def test_a_photograph_that_changes_is_said_in_one_line(faulty: Path, ray_cluster: None, tmp_path: Path) -> None:
    from srgan_ray.on_ray import ingest

    source = tmp_path / "in"
    source.mkdir()
    for number in range(4):
        (source / f"{number}.png").write_bytes((faulty / f"0{number}.png").read_bytes())
    listed = list_photographs(str(source), 0, 0)
    (source / "2.png").write_bytes((faulty / "09.png").read_bytes())
    with pytest.raises(InputError, match=r"^SOURCE: .*2\.png changed"):
        ingest.prepare(listed, Request(str(source), min_side_px=48), Folder(tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_from_and_to_object_storage(prepared: Path, faulty: Path, bucket: str) -> None:
    for name in faulty.iterdir():
        Folder(f"{bucket}/faulty").write(name.name, name.read_bytes())
    code = (
        "import sys; from srgan_ray.cli import main\n"
        "main(['prepare', sys.argv[1], '--out', sys.argv[2], '--min-side-px', '48', '--val-fraction', '0.1'])"
    )
    done = run_python(code, f"{bucket}/faulty", f"{bucket}/prepared")
    assert done.returncode == 0, done.stderr
    assert rows_of(f"{bucket}/prepared") == rows_of(prepared)
    assert read_manifest(f"{bucket}/prepared").data_hash == read_manifest(prepared).data_hash
    denied = run_python(code, "s3://not-there/faulty", f"{bucket}/more")
    assert denied.returncode == 2
    assert len(denied.stderr.splitlines()) == 1
    assert "s3://not-there/faulty cannot be read" in denied.stderr


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    variables = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | environment
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_kills_and_numbers_of_cpus_make_no_difference(prepared: Path, faulty: Path, tmp_path: Path) -> None:
    """`kill -9` at three moments, then an end, on 1 CPU and on 3: the same bytes as in one go on this machine."""
    arguments = ["--min-side-px", "48", "--val-fraction", "0.1"]
    for cpus in (1, 3):
        out = tmp_path / f"cpus_{cpus}"
        command = [sys.executable, "-m", "srgan_ray", "prepare", str(faulty), "--out", str(out), *arguments]
        variables = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        variables["RAY_OVERRIDE_RESOURCES"] = json.dumps({"CPU": cpus})
        for file in ("parts", "train", "rejected.jsonl")[: cpus if cpus == 3 else 1]:
            process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not (out / file).exists() and process.poll() is None:
                time.sleep(0.002)
            process.kill()
            process.wait()
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert files_of(out) == files_of(prepared)
        again = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=200)
        assert "nothing to do" in again.stderr
        assert json.loads(again.stdout) == json.loads(done.stdout)


def test_limit_degradations_and_seed(faulty: Path, ray_cluster: None, tmp_path: Path) -> None:
    request = Request(str(faulty), limit=12, seed=3, degradations=("matlab_bicubic",), min_side_px=48)
    summary = prepare(request, tmp_path / "few")
    assert summary["found"] == 12
    assert all(set(row.lr) == {"matlab_bicubic"} for row in rows_of(tmp_path / "few")["train"])
    assert find_finished(PrepareConfig(request, str(tmp_path / "few"))) == read_manifest(tmp_path / "few")


def test_without_two_usable_photographs_nothing_valid_is_left(ray_cluster: None, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.png").write_bytes(images.encode(photograph(0), "png"))
    (tmp_path / "in" / "bad.png").write_bytes(b"bad")
    with pytest.raises(InputError, match="1 usable"):
        prepare(Request(str(tmp_path / "in")), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
