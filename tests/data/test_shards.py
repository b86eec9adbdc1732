import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakes import make_shards, photograph
from srgan_ray.data import images
from srgan_ray.data.degrade import DEGRADATIONS
from srgan_ray.data.forensics import Finding
from srgan_ray.data.manifest import LEAST_SIDE_PX, PrepareConfig, Request, find_finished, read_manifest, split_ids
from srgan_ray.data.shard_set import ShardSet
from srgan_ray.data.shards import examine, plan_shards, read_findings, write_part
from srgan_ray.data.sources import list_photographs
from srgan_ray.data.storage import Folder
from srgan_ray.errors import InputError


def examine_all(folder: Path, min_side_px: int = 48) -> dict:
    request = Request(str(folder), min_side_px=min_side_px)
    return {file.name: examine(file, file.read(), request) for file in list_photographs(str(folder), 0, 0)}


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


def test_original_bytes_are_kept_wherever_any_decoder_agrees(tmp_path: Path) -> None:
    """Also where a multiple of 4 is smaller: height and width are the crop box."""
    Image.fromarray(photograph(0)).save(tmp_path / "whole.jpg", quality=80)
    Image.fromarray(photograph(0, 121, 154)).save(tmp_path / "odd.jpg", quality=80)
    Image.fromarray(photograph(0)).convert("P").save(tmp_path / "palette.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(photograph(0)).save(tmp_path / "turned.jpg", exif=turned)
    examined = examine_all(tmp_path)
    for name in ("whole.jpg", "odd.jpg"):
        finding, row = examined[name]
        assert row["hr"] == (tmp_path / name).read_bytes()
        assert (finding.height, finding.width) == (120, 152)
    for name, shape in (("palette.png", (120, 152, 3)), ("turned.jpg", (152, 120, 3))):
        finding, row = examined[name]
        kept = images.decode(row["hr"])
        assert kept.shape == shape == (finding.height, finding.width, 3)
        np.testing.assert_array_equal(kept, images.decode((tmp_path / name).read_bytes()))
        assert images.read_traits(row["hr"]).orientation == 1


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_an_orientation_that_turns_nothing_is_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photograph(0)).save(tmp_path / "a.jpg", exif=exif)
    finding, row = examine_all(tmp_path)["a.jpg"]
    assert finding.notes == ()
    assert row["hr"] == (tmp_path / "a.jpg").read_bytes()
    np.testing.assert_array_equal(images.decode_stored(row["hr"]), images.decode(row["hr"]))


def test_the_smallest_photograph_that_may_be_asked_for_is_measured(tmp_path: Path) -> None:
    Image.fromarray(photograph(0, LEAST_SIDE_PX, 40)).save(tmp_path / "a.png")
    finding, row = examine_all(tmp_path, LEAST_SIDE_PX)["a.png"]
    assert row
    assert np.isfinite([finding.detail, finding.blockiness]).all()


def test_lr_is_made_of_the_crop_box(tmp_path: Path) -> None:
    Image.fromarray(photograph(0, 123, 155)).save(tmp_path / "odd.png")
    finding, row = examine_all(tmp_path)["odd.png"]
    box = images.decode(row["hr"])[: finding.height, : finding.width]
    assert box.shape == (120, 152, 3)
    for name, degrade in DEGRADATIONS.items():
        np.testing.assert_array_equal(images.decode(row[f"lr_{name}"]), degrade(box))


def test_bad_files_are_told_apart(tmp_path: Path) -> None:
    Image.fromarray(photograph(0, 90, 200)).save(tmp_path / "small.png")
    (tmp_path / "text.jpg").write_text("no photograph")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.fromarray(photograph(0)).save(tmp_path / "picture.gif")
    whole = images.encode(photograph(1), "jpeg")
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(photograph(1)[..., 0] / np.float32(255)).save(tmp_path / "float.tif")
    Image.fromarray(photograph(1)).save(tmp_path / "good.png")
    flat = np.full((120, 152, 3), (10, 20, 30), np.uint8)
    Image.fromarray(flat).save(tmp_path / "flat.png")
    Image.fromarray(np.pad(flat, ((4, 4), (4, 4), (0, 0)))).save(tmp_path / "framed.png")
    flat[60, 60] += 1
    Image.fromarray(flat).save(tmp_path / "speck.png")
    reasons = {name: finding.reason for name, (finding, _) in examine_all(tmp_path, 96).items()}
    expected = {
        "small.png": "too small: 200x88", "text.jpg": "not an image", "empty.jpg": "not an image",
        "picture.gif": "a GIF image", "truncated.jpg": "truncated", "good.png": "",
        "float.tif": "a TIFF image with pixels of 12 or 32 bit",
        "flat.png": "one colour: ", "framed.png": "one colour: ", "speck.png": "",
    }  # fmt: skip
    assert {name: text in reasons[name] for name, text in expected.items()} == dict.fromkeys(expected, True)
    assert not reasons["good.png"] + reasons["speck.png"]
    assert reasons["good.png"] == ""
    assert not any(row for finding, row in examine_all(tmp_path, 96).values() if finding.reason)


def test_a_photograph_that_changes_stops_the_part(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(3):
        Image.fromarray(photograph(number)).save(source / f"{number}.png")
    listed = list_photographs(str(source), 0, 0)
    Image.fromarray(photograph(9)).save(source / "1.png")
    with pytest.raises(InputError, match=r"1\.png changed"):
        write_part(Folder(tmp_path / "out"), "part", listed, Request(str(source)))
    (source / "1.png").unlink()
    with pytest.raises(InputError, match=r"1\.png cannot be read any more"):
        write_part(Folder(tmp_path / "out"), "part", listed, Request(str(source)))
    assert Folder(tmp_path / "out").names() == []


def test_a_part_holds_what_was_found_whatever_the_name(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(photograph(0)).save(source / "Bärenhund.png")
    (source / "not utf \udcff.png").write_bytes((source / "Bärenhund.png").read_bytes())
    request = Request(str(source), min_side_px=48)
    listed = list_photographs(str(source), 0, 0)
    write_part(Folder(tmp_path / "out"), "part", listed, request)
    findings = read_findings(Folder(tmp_path / "out"), "part")
    assert findings == [examine(file, file.read(), request)[0] for file in listed]
    plan_findings = [{finding.name for finding in findings}]
    assert plan_findings == [{"Bärenhund.png", "not utf \udcff.png"}]


def test_duplicates_go_and_look_alikes_stay_on_one_side(tmp_path: Path) -> None:
    """Over many seeds: never the same scene in train and in val."""
    for number in range(12):
        picture = Image.fromarray(photograph(number, 200, 240))
        picture.save(tmp_path / f"{number}.png")
        if number < 4:
            picture.resize((180, 150)).save(tmp_path / f"{number}_small.jpg", quality=70)
            picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / f"{number}_mirrored.jpg", quality=80)
    (tmp_path / "copy.png").write_bytes((tmp_path / "7.png").read_bytes())
    findings = [finding for finding, _ in examine_all(tmp_path).values()]
    for seed in range(20):
        plan = plan_shards([findings], Request(str(tmp_path), seed=seed, val_fraction=0.4, min_side_px=48))
        assert len(plan.rejected) == 1
        assert "duplicate: the same pixels as" in plan.rejected[0].reason
        assert len(plan.splits) == 20
        groups = sorted(sorted(finding.name.split(".")[0] for finding in group) for group in plan.alike)
        assert groups == [[f"{number}", f"{number}_mirrored", f"{number}_small"] for number in range(4)]
        assert all(len({plan.splits[finding.id] for finding in group}) == 1 for group in plan.alike)
        assert set(plan.splits.values()) == {"train", "val"}


@pytest.mark.parametrize(
    ("sides", "rows"),
    [
        ([100] * 131, [64, 64, 3]),
        ([4000, 4000, 100, 4000, 100], [3, 2]),  # two of 16 megapixels are within 2 ** 25, three are not
        ([4096, 4096, 100], [2, 1]),  # two of these are just as many
        ([100, 7000, 100], [1, 1, 1]),
    ],
)
def test_shards_are_bounded_in_rows_and_in_pixels(sides: list[int], rows: list[int]) -> None:
    random = np.random.default_rng(0)
    splits = split_ids([f"{number:032x}" for number in range(len(sides) + 1)], 0, 1e-9)
    side_of = dict(zip([id for id, split in splits.items() if split == "train"], sides))
    findings = [
        Finding(id, "", id, side_of.get(id, 50), side_of.get(id, 50), signature=random.bytes(32)) for id in splits
    ]
    plan = plan_shards([findings], Request("", val_fraction=1e-9))
    shards = [shard for shard in plan.shards if shard.split == "train"]
    assert [len(shard.places) for shard in shards] == rows
    places = [place.row for shard in shards for place in shard.places]
    assert [findings[row].id for row in places] == list(side_of), "all of them once, in order"


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
    with pytest.raises(InputError, match="2 or more"):
        split_ids(["a", "b"], 0, val_fraction, [["a", "b"]])


def test_a_shard_set_is_valid_only_with_its_manifest(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json"):
        ShardSet(tmp_path, "train")
    (tmp_path / "manifest.json").write_text('{"schema_version": 2')
    with pytest.raises(InputError, match="damaged"):
        ShardSet(tmp_path, "train")
    newer = {**json.loads((shards / "manifest.json").read_text()), "schema_version": 99}
    (tmp_path / "manifest.json").write_text(json.dumps(newer))
    with pytest.raises(InputError, match="99"):
        ShardSet(tmp_path, "train")


def test_a_set_with_a_setting_that_is_no_longer_taken_is_refused_in_words(shards: Path, tmp_path: Path) -> None:
    sealed = json.loads((shards / "manifest.json").read_text())
    sealed["request"]["min_side_px"] = 8
    (tmp_path / "manifest.json").write_text(json.dumps(sealed))
    with pytest.raises(
        InputError, match=r"manifest\.json is of a shard set with --min-side-px 8; wanted.*--overwrite$"
    ):
        ShardSet(tmp_path, "train")


def test_a_set_that_lost_a_shard_is_refused(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text((shards / "manifest.json").read_text())
    with pytest.raises(InputError, match=r"lacks train/00000\.parquet.*: prepare again with --overwrite"):
        ShardSet(tmp_path, "train")


def test_a_finished_set_is_found_again_and_another_is_refused(shards: Path, tmp_path: Path) -> None:
    request = read_manifest(shards).request
    assert find_finished(PrepareConfig(request, str(shards))) == read_manifest(shards)
    assert find_finished(PrepareConfig(request, str(tmp_path / "new"))) is None
    other = Request(request.source, seed=7, val_fraction=0.5, min_side_px=48)
    with pytest.raises(InputError, match=r"seed = 0, now 7.*--overwrite"):
        find_finished(PrepareConfig(other, str(shards)))
    for wanted in (other, request):
        assert find_finished(PrepareConfig(wanted, str(shards), overwrite=True)) is None
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "00000.parquet.writing").write_bytes(b"left by a prepare that was killed")
    assert find_finished(PrepareConfig(request, str(tmp_path))) is None
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(InputError, match=r"diary\.txt"):
        find_finished(PrepareConfig(request, str(tmp_path)))


@pytest.mark.parametrize("content", [b'{"schema_version": 1}', b"damaged"])
def test_a_manifest_that_cannot_be_read_is_overwritten_where_that_is_asked(
    content: bytes, photographs: Path, tmp_path: Path
) -> None:
    config = PrepareConfig(Request(str(photographs)), str(tmp_path))
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match="prepare again with --overwrite"):
        find_finished(config)
    assert find_finished(dataclasses.replace(config, overwrite=True)) is None


def test_files_of_something_else_are_never_overwritten(shards: Path, photographs: Path, tmp_path: Path) -> None:
    """Not beside a manifest.json either, which may be of something else too."""
    (tmp_path / "diary.txt").write_text("mine")
    for manifest in ("{}", (shards / "manifest.json").read_text()):
        (tmp_path / "manifest.json").write_text(manifest)
        with pytest.raises(InputError, match=r"diary\.txt, which is of no shard set"):
            find_finished(PrepareConfig(Request(str(photographs)), str(tmp_path), overwrite=True))


@pytest.mark.parametrize("name", ["train/rex.jpg", "val/0000.parquet", "parts/list.txt"])
def test_folders_that_are_called_like_a_shard_sets_are_of_something_else(
    name: str, photographs: Path, tmp_path: Path
) -> None:
    Folder(tmp_path).write(name, b"mine")
    with pytest.raises(InputError, match=f"holds {name}, which is of no shard set"):
        find_finished(PrepareConfig(Request(str(photographs)), str(tmp_path)))


def test_the_data_hash_tells_photographs_and_settings_but_not_places(photographs: Path, tmp_path: Path) -> None:
    def data_hash(name: str, **settings) -> str:
        return make_shards(tmp_path / name, Request(str(photographs), min_side_px=48, **settings)).data_hash

    assert data_hash("a") == data_hash("b")
    assert len({data_hash("c", seed=1), data_hash("d", limit=7), data_hash("a")}) == 3
