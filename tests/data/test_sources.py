"""Every kind of source gives the same photographs."""

import io
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fakes import photograph
from srgan_ray.data import sources
from srgan_ray.data.sources import SAMPLES, Photograph, list_photographs
from srgan_ray.errors import InputError


def contents(source: Path | str, seed: int = 0) -> dict[str, bytes]:
    return {file.name: file.read() for file in list_photographs(str(source), 0, seed)}


@pytest.fixture
def nested(photographs: Path, tmp_path: Path) -> Path:
    """The photographs spread over a folder in a folder, two tars and a Parquet file in Hugging Face's layout."""
    files = sorted(path for path in photographs.rglob("*") if path.is_file())
    folder = tmp_path / "nested"
    (folder / "more" / "still more").mkdir(parents=True)
    for path in files[:2]:
        (folder / "more" / "still more" / path.name).write_bytes(path.read_bytes())
    for number in (0, 1):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for path in files[2 + 2 * number : 4 + 2 * number]:
                tar.add(path, path.name)
    column = [{"bytes": path.read_bytes(), "path": path.name} for path in files[6:]]
    pq.write_table(pa.table({"image": column, "label": [3, 4]}), folder / "more" / "rest.parquet", row_group_size=1)
    return folder


def test_a_folder_is_looked_through(photographs: Path, nested: Path) -> None:
    assert sorted(contents(nested).values()) == sorted(contents(photographs).values())
    assert {"1.tar", "more/rest.parquet/3", "more/rest.parquet/4"} < {
        str(Path(name).parent) for name in contents(nested)
    }


def test_tar_is_read_in_place_like_the_folder(photographs: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "dogs.tar", "w") as tar:
        tar.add(photographs, "Images")
    inside = list_photographs(str(tmp_path / "dogs.tar"), 0, 0)
    assert len(inside) == 8
    for file in inside:
        assert file.read() == (photographs / Path(file.name).relative_to("Images")).read_bytes()
        assert file.breed == f"breed_{Path(file.name).parent.name[-1]}"


def test_photographs_read_their_own_bytes_only(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "two.tar", "w") as tar:
        for name, content in (("a", b"first"), ("b", b"second one")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert contents(tmp_path / "two.tar") == {"a": b"first", "b": b"second one"}


@pytest.mark.parametrize("column", ["image", "picture"])
def test_parquet_rows_are_photographs_in_the_order_of_their_row_groups(tmp_path: Path, column: str) -> None:
    table = pa.table({column: [bytes([number]) for number in range(20)], "breed": ["a", "b"] * 10})
    pq.write_table(table, tmp_path / "some.parquet", row_group_size=5)
    listed = list_photographs(str(tmp_path / "some.parquet"), 0, 3)
    assert sorted(file.read()[0] for file in listed) == list(range(20))
    assert {file.breed for file in listed} == {"a", "b"}
    groups = [file.read()[0] // 5 for file in listed]
    assert groups == [group for group in dict.fromkeys(groups) for _ in range(5)]
    assert groups[::5] != sorted(groups[::5]) or groups[::5] != [
        file.read()[0] // 5 for file in list_photographs(str(tmp_path / "some.parquet"), 0, 4)[::5]
    ]


def test_parquet_rows_of_one_path_have_names_of_their_own(tmp_path: Path) -> None:
    paths = ["a.jpg", "deep/a.jpg", "a.jpg", "deep/a.jpg", None, ""]
    images = [{"bytes": bytes([number]), "path": path} for number, path in enumerate(paths)]
    pq.write_table(pa.table({"image": images, "breed": ["pug"] * 6}), tmp_path / "some.parquet", row_group_size=2)
    assert contents(tmp_path / "some.parquet") == {
        "pug/a.jpg": b"\0",
        "pug/deep/a.jpg": b"\1",
        "pug/a_row_00000002.jpg": b"\2",
        "pug/deep/a_row_00000003.jpg": b"\3",
        "pug/row_00000004": b"\4",
        "pug/row_00000005": b"\5",
    }


def test_samples_are_photographs_at_hand() -> None:
    assert set(contents("samples")) == set(SAMPLES)


def test_stanford_dogs_is_the_downloaded_tar(photographs: Path, tmp_path: Path, monkeypatch) -> None:
    asked = []
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(photographs, "Images")
    monkeypatch.setattr(sources, "download", lambda *arguments: asked.append(arguments) or tmp_path / "images.tar")
    by_name = list_photographs("stanford-dogs", 0, 0, str(tmp_path), "http://mirror/images.tar")
    assert by_name == list_photographs(str(tmp_path / "images.tar"), 0, 0)
    assert asked == [(sources.STANFORD_DOGS, tmp_path, "http://mirror/images.tar")]


def test_limit_takes_the_same_files_for_a_seed_whatever_else(photographs: Path) -> None:
    first = [file.name for file in list_photographs(str(photographs), 3, seed=5)]
    assert first == [file.name for file in list_photographs(str(photographs), 0, seed=5)][:3]
    assert first != [file.name for file in list_photographs(str(photographs), 3, seed=6)]


@pytest.mark.parametrize("how", ["longer", "shorter", "as long", "gone"])
def test_a_file_that_changed_is_noticed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "in" / "a.png"
    path.parent.mkdir()
    path.write_bytes(b"x" * 100)
    [listed] = list_photographs(str(tmp_path / "in"), 0, 0)
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"y" * {"longer": 101, "shorter": 99, "as long": 100}[how])
    with pytest.raises(InputError, match=r"a\.png.*(changed|any more)"):
        listed.read()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/place", "does not exist"),
        (__file__, r"no \.tar and no \.parquet"),
        ("broken.tar", "cannot be read as an uncompressed tar"),
        ("cut.tar", "cut off"),
        ("packed.tar", "uncompressed tar"),
        ("broken.parquet", "cannot be read as Parquet"),
        ("numbers.parquet", "the columns number; wanted one with encoded images"),
        ("ftp://somewhere/else", "wanted a path, s3://"),
        ("empty", "holds no file"),
        ("empty.tar", "holds no file"),
    ],
)
def test_bad_sources_are_refused_in_words(source: str, message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken.tar").write_bytes(b"x" * 2000)
    Path("broken.parquet").write_bytes(b"PAR1 no more")
    pq.write_table(pa.table({"number": [1, 2]}), "numbers.parquet")
    tarfile.open("empty.tar", "w").close()
    picture = tmp_path / "picture.png"
    Image.fromarray(photograph(0)).save(picture)
    with tarfile.open("whole.tar", "w") as tar, tarfile.open("packed.tar", "w:gz") as packed:
        tar.add(picture)
        packed.add(picture)
    Path("cut.tar").write_bytes(Path("whole.tar").read_bytes()[:3000])
    with pytest.raises(InputError, match=message):
        list_photographs(source, 0, 0)


def test_breeds_come_without_their_wordnet_numbers() -> None:
    names = {"Images/n02085620-Chihuahua/a.jpg": "Chihuahua", "Pug/a.jpg": "Pug", "a.jpg": ""}
    assert {name: Photograph(name, "", 0, 0).breed for name in names} == names


def test_what_lies_below_out_is_no_photograph(photographs: Path, tmp_path: Path) -> None:
    """Where shards are made inside the folder of the photographs, or made anew there."""
    everything = list_photographs(str(photographs), 0, 0)
    shutil.copytree(photographs, tmp_path / "in")
    (tmp_path / "in" / "out").mkdir()
    for name in ("lock", "a.parquet", "b.png"):
        (tmp_path / "in" / "out" / name).write_bytes(b"of a shard set")
    (tmp_path / "in" / "outside.png").write_bytes(b"a photograph")
    found = list_photographs(str(tmp_path / "in"), 0, 0, out=str(tmp_path / "in" / "out"))
    assert {file.name for file in found} == {file.name for file in everything} | {"outside.png"}


def test_damaged_pages_of_a_parquet_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.parquet"
    pq.write_table(pa.table({"image": [bytes([number]) * 5000 for number in range(50)]}), path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[10:400] = bytes(range(256)) + bytes(134)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"some\.parquet cannot be read as Parquet"):
        list_photographs(str(path), 0, 0)
