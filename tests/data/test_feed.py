import itertools
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import make_shards, make_small_shards
from srgan_ray.data import crops, feed, images
from srgan_ray.data.crops import DISTANCE, CropConfig, Stream, cut, draw, draw_crop, reach
from srgan_ray.data.degrade import DEGRADATIONS
from srgan_ray.data.feed import Feed, check_feed
from srgan_ray.data.manifest import Request
from srgan_ray.errors import InputError

CONFIG = CropConfig(batch_size=4, crop_px=48)
SHARD_SIZES = [(7,), (1,), (5, 5, 2), (64,) * 5 + (9,), (3,) * 40]


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """One shard in a window, and no room to keep photographs."""
    monkeypatch.setattr(crops, "SHARDS_PER_WINDOW", 1)
    monkeypatch.setattr(feed, "DECODED_BUDGET_MB", 0)


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """28 photographs for training in 7 shards of 4; their HR is up to 3 pixels larger than the crop box."""
    folder = tmp_path_factory.mktemp("shards")
    manifest = make_small_shards(folder, 30, (64, 72), rows_per_shard=4, rows_per_group=3)
    assert len(manifest.shards) > 5
    return folder


def rows_of_step(step: int, stream: Stream, config: CropConfig) -> list[int]:
    """The row for each slot of the global batch of `step` (from 1)."""
    return [stream.row(draw(step, slot, config).position) for slot in range(config.batch_size)]


@pytest.mark.parametrize("sizes", SHARD_SIZES)
def test_every_row_once_an_epoch_in_windows_of_whole_shards(sizes: tuple[int, ...]) -> None:
    stream, ends = Stream(sizes, 0), np.cumsum(sizes)
    num_rows = sum(sizes)
    for epoch in (-2, 0, 1):
        positions = range(epoch * num_rows, (epoch + 1) * num_rows)
        assert sorted(map(stream.row, positions)) == list(range(num_rows))
        windows = list(dict.fromkeys(map(stream.window, positions)))
        assert windows == stream.windows(positions)[:-1]
        shards = [set(np.searchsorted(ends, stream.rows(window), side="right")) for window in windows]
        assert all(len(those) <= crops.SHARDS_PER_WINDOW for those in shards)
        assert sum(map(len, shards)) == len(sizes), "no shard lies in two windows"


def test_epochs_windows_and_seeds_shuffle_differently() -> None:
    sizes = [20] * 40
    epochs = [
        [Stream(sizes, seed).row(place + 800 * epoch) for place in range(800)] for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len(set(map(tuple, epochs))) == 4
    shards_of_first_window = {frozenset(row // 20 for row in epoch[:320]) for epoch in epochs}
    assert len(shards_of_first_window) == 4
    one_shard = Stream([100], 0)
    assert [one_shard.row(place) for place in range(100)] != [one_shard.row(100 + place) for place in range(100)]
    first, second = (np.argsort(Stream([20] * 40, 0).rows(crops.Window(0, number))) for number in (0, 1))
    assert not np.array_equal(first, second)


def test_only_the_windows_at_hand_are_computed_of_ten_million_rows() -> None:
    stream = Stream([64] * 156_250, 0)
    started = time.perf_counter()
    rows = {row for step in range(40_000, 40_100) for row in rows_of_step(step, stream, CropConfig())}
    assert time.perf_counter() - started < 2
    assert len(rows) > 100
    assert len({row // 64 for row in rows}) <= 2 * crops.SHARDS_PER_WINDOW


@pytest.mark.parametrize(("batch_size", "repeats"), [(16, 4), (4, 4), (3, 2), (1, 4), (6, 1), (5, 3)])
def test_every_photograph_gives_its_crops_once_each_far_apart_and_in_one_slot(batch_size: int, repeats: int) -> None:
    config = CropConfig(batch_size=batch_size, crops_per_photograph=repeats)
    drawn: dict[int, list[tuple[int, int, int]]] = {}
    for step in range(1, 200):
        for slot in range(batch_size):
            position, repeat = draw(step, slot, config)
            assert position in reach(step, config)
            drawn.setdefault(position, []).append((repeat, step, slot))
    # The run begins in the middle of the first turn, which is not whole therefore.
    whole = [drawn[position] for position in range(batch_size, batch_size * (199 // repeats - repeats * DISTANCE))]
    assert len(whole) > batch_size * 20
    for uses in whole:
        numbers, steps, slots = zip(*uses)
        assert numbers == tuple(range(repeats))
        assert len(set(slots)) == 1
        assert set(np.diff(steps)) <= {repeats * DISTANCE + 1}
    if repeats == 1:
        assert [draw(step, slot, config).position for step in (1, 2) for slot in range(batch_size)] == list(
            range(2 * batch_size)
        )


@pytest.mark.parametrize("sizes", SHARD_SIZES)
def test_every_row_gives_equally_many_crops(sizes: tuple[int, ...]) -> None:
    """Over the steps in which whole epochs go by, up to those photographs that the begin and the end cut."""
    config, stream = CropConfig(batch_size=16), Stream(sizes, 0)
    epochs = 4 * 16 * 10
    counts = Counter(row for step in range(1, 1 + 10 * 4 * sum(sizes)) for row in rows_of_step(step, stream, config))
    assert sum(counts.values()) == epochs * sum(sizes)
    assert set(counts) == set(range(sum(sizes)))
    assert all(abs(count - epochs) <= 4 * (2 + 16 * 13 // sum(sizes)) for count in counts.values())


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_every_worker_decodes_equally_many_photographs_in_every_step(num_workers: int) -> None:
    config = CropConfig(batch_size=16)
    for rank in range(num_workers):
        new = [
            sum(draw(step, slot, config).repeat == 0 for slot in range(rank, 16, num_workers)) for step in range(1, 99)
        ]
        assert set(new) == {4 // num_workers}


def test_batches_are_float_pairs_in_range(shards: Path) -> None:
    lr, hr = Feed(shards, CONFIG).batch(1)
    assert (lr.shape, hr.shape) == ((4, 3, 12, 12), (4, 3, 48, 48))
    assert lr.dtype == hr.dtype == torch.float32
    assert 0 <= lr.min() <= lr.max() <= 1
    assert 0 <= hr.min() <= hr.max() <= 1
    assert hr.std() > 0.05


@pytest.mark.parametrize("degradation", list(DEGRADATIONS))
def test_lr_crop_is_the_hr_crop_made_small(shards: Path, degradation: str) -> None:
    """Inside the border, degrading the HR crop gives the LR crop, whatever the flip and the turns."""
    config = CropConfig(batch_size=16, crop_px=48, degradation=degradation)
    lr, hr = Feed(shards, config).batch(3)
    for lr_crop, hr_crop in zip(lr.numpy(), hr.numpy()):
        again = images.to_float(DEGRADATIONS[degradation](images.to_levels(hr_crop)))
        assert np.abs(again - lr_crop)[:, 2:-2, 2:-2].max() < 1.5 / 255


def test_lr_of_a_mixed_batch_is_by_the_degradation_that_was_drawn(shards: Path) -> None:
    config = CropConfig(batch_size=16, crop_px=48, degradation="mixed")
    found = []
    for lr_crop, hr_crop in zip(*(part.numpy() for part in Feed(shards, config).batch(3))):
        again = {name: images.to_float(degrade(images.to_levels(hr_crop))) for name, degrade in DEGRADATIONS.items()}
        errors = {name: np.abs(lr - lr_crop)[:, 2:-2, 2:-2].max() for name, lr in again.items()}
        found.append(min(errors, key=errors.__getitem__))
        assert errors[found[-1]] < 1.5 / 255
    assert set(found) == set(DEGRADATIONS)


@pytest.fixture(params=["kept", "let go"])
def set_of_shards(request: pytest.FixtureRequest, many_shards: Path) -> Path:
    """A set whose decoded photographs fit into memory, and one of seven windows that do not."""
    if request.param == "let go":
        request.getfixturevalue("small_windows")
    return many_shards


@pytest.mark.parametrize("num_workers", [2, 4])
def test_workers_share_the_same_global_batch(set_of_shards: Path, num_workers: int) -> None:
    whole = dict(Feed(set_of_shards, CONFIG).batches(1, 30))
    for rank in range(num_workers):
        part = dict(Feed(set_of_shards, CONFIG, rank, num_workers, num_threads=2).batches(1, 30))
        assert list(part) == list(whole)
        assert all(torch.equal(part[step].hr, whole[step].hr[rank::num_workers]) for step in whole)
        assert all(torch.equal(part[step].lr, whole[step].lr[rank::num_workers]) for step in whole)


def test_starting_in_the_middle_gives_the_same_batches(set_of_shards: Path) -> None:
    whole = dict(Feed(set_of_shards, CONFIG).batches(1, 40))
    rest = dict(Feed(set_of_shards, CONFIG).batches(25, 40))
    assert list(whole) == list(range(1, 41))
    assert list(rest) == list(range(25, 41))
    assert all(torch.equal(rest[step].hr, whole[step].hr) for step in rest)
    assert torch.equal(Feed(set_of_shards, CONFIG).batch(31).lr, whole[31].lr)
    assert not torch.equal(whole[1].hr, whole[7].hr)


def test_the_batches_are_those_of_the_pure_functions(many_shards: Path, small_windows: None) -> None:
    """Row by row, with nothing ahead and nothing kept, by the config's seed."""
    config = CropConfig(batch_size=4, crop_px=48, seed=5)
    rows = feed.ShardSet(many_shards, "train")
    stream = Stream([shard.num_rows for shard in rows.shards], 5)
    for step, batch in Feed(many_shards, config).batches(3, 12):
        for slot, row in enumerate(rows[index] for index in rows_of_step(step, stream, config)):
            hr = images.crop_to_multiple(images.decode(row.hr), 4)
            assert hr.shape[:2] == (row.height, row.width)
            place = draw_crop(step, slot, row.id, row.height, row.width, config)
            assert np.array_equal(batch.hr[slot], images.to_float(cut(hr, place, 48, 4)))


def test_a_photograph_is_decoded_once_for_all_its_crops(
    many_shards: Path, small_windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode_row = feed.decode_row
    monkeypatch.setattr(feed, "decode_row", lambda row: decoded.append(row.id) or decode_row(row))
    list(Feed(many_shards, CONFIG).batches(1, 280))
    in_flight = 4 * 3 * DISTANCE
    assert 280 <= len(decoded) <= 280 + in_flight + 4 * 4
    decoded.clear()
    monkeypatch.setattr(feed, "DECODED_BUDGET_MB", 1)
    list(Feed(many_shards, CONFIG).batches(1, 280))
    assert len(decoded) == len(set(decoded)) == len(feed.ShardSet(many_shards, "train")), "all are kept"


def test_no_more_is_held_than_is_in_use(
    many_shards: Path, small_windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows, photographs_begun, arrays = [], [], []
    take = feed.Photographs.take

    def spy(photographs: feed.Photographs, step: int) -> list[feed.CropPair]:
        windows.append(len(photographs._windows))
        photographs_begun.append(len(photographs._crops))
        assert not photographs._decoded
        for pairs in photographs._crops.values():
            arrays.extend(image for pair in pairs.result().values() for image in pair)
        return take(photographs, step)

    monkeypatch.setattr(feed.Photographs, "take", spy)
    config = CropConfig(batch_size=4, crop_px=48, crops_per_photograph=2)
    list(Feed(many_shards, config).batches(1, 100))
    assert max(windows) <= 2 + (DISTANCE + feed.DECODED_AHEAD)  # a window is one batch here
    assert max(photographs_begun) <= 4 * (DISTANCE + feed.DECODED_AHEAD)
    assert {image.shape for image in arrays} == {(12, 12, 3), (48, 48, 3)}
    owners = [image if image.base is None else image.base for image in arrays]
    assert {owner.size for owner in owners} == {12 * 12 * 3, 48 * 48 * 3}, "none holds what it was cut out of"


def test_another_seed_gives_other_batches(shards: Path) -> None:
    other = Feed(shards, CropConfig(batch_size=4, crop_px=48, seed=1)).batch(1)
    assert not torch.equal(other.hr, Feed(shards, CONFIG).batch(1).hr)


def test_only_the_degradations_in_use_are_read_and_decoded(shards: Path) -> None:
    for name, wanted in (("matlab_bicubic", {"matlab_bicubic"}), ("mixed", set(DEGRADATIONS))):
        rows = Feed(shards, CropConfig(batch_size=4, crop_px=48, degradation=name))._rows
        assert set(rows[0].lr) == wanted


@pytest.mark.parametrize("fails", ["read", "decode"])
def test_what_fails_in_a_thread_is_raised_in_the_loop(
    shards: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(*{"read": (feed.ShardSet, "read"), "decode": (feed, "decode_row")}[fails], fail)
    with pytest.raises(OSError, match="the disk is gone"):
        list(Feed(shards, CONFIG).batches(1, 9))
    assert not _feed_threads()


def test_the_threads_end_with_the_generator(many_shards: Path, small_windows: None) -> None:
    batches = Feed(many_shards, CONFIG, num_threads=3).batches(1, 10**9)
    assert next(batches)[0] == 1
    assert _feed_threads()
    batches.close()
    assert not _feed_threads()


def test_an_interpreter_with_an_open_feed_ends(many_shards: Path) -> None:
    program = f"""
from srgan_ray.data.crops import CropConfig
from srgan_ray.data.feed import Feed
batches = Feed({str(many_shards)!r}, CropConfig(batch_size=4, crop_px=48)).batches(1, 10**9)
next(batches)
raise SystemExit(3)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 3


def _feed_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("feed")]


def test_mixed_wants_shards_of_both_degradations(photographs: Path, tmp_path: Path) -> None:
    make_shards(tmp_path / "one", Request(str(photographs), degradations=("opencv_cubic",)))
    check_feed(tmp_path / "one", CropConfig(batch_size=4, crop_px=48), 1)
    with pytest.raises(InputError, match=r"--degradation mixed; the shards in .* hold opencv_cubic: choose one"):
        check_feed(tmp_path / "one", CropConfig(batch_size=4, crop_px=48, degradation="mixed"), 1)


def test_mixed_draws_both_degradations(shards: Path) -> None:
    config = CropConfig(batch_size=4, crop_px=48, degradation="mixed")
    drawn = {draw_crop(step, 0, "id", 120, 152, config).degradation for step in range(30)}
    assert drawn == set(DEGRADATIONS)


def test_crops_reach_every_place_and_orientation() -> None:
    drawn = [draw_crop(step, 0, "id", 56, 56, CONFIG) for step in range(400)]
    assert {crop.top for crop in drawn} == {crop.left for crop in drawn} == {0, 1, 2}
    assert len({(crop.flip, crop.turns) for crop in drawn}) == 8
    image = np.arange(56 * 56 * 3).reshape(56, 56, 3)
    assert all(cut(image, crop, 48, 4).shape == (48, 48, 3) for crop in drawn)
    assert len({cut(image, crop, 48, 4)[0, 0, 0] for crop in drawn}) > 30


def test_a_crop_is_of_its_seed_step_slot_and_photograph() -> None:
    drawn = {
        draw_crop(step, slot, id, 40_000, 40_000, CropConfig(crop_px=48, seed=seed))
        for seed, step, slot, id in itertools.product((0, 1), (1, 2), (0, 1), ("a", "b"))
    }
    assert len(drawn) == 16


def test_crops_are_uniform() -> None:
    drawn = [draw_crop(step, slot, "id", 4 * 34, 4 * 19, CONFIG) for step in range(500) for slot in range(4)]
    for values, num in (([c.top for c in drawn], 23), ([c.left for c in drawn], 8), ([c.turns for c in drawn], 4)):
        counts = np.bincount(values, minlength=num)
        assert len(counts) == num
        assert ((counts - 2000 / num) ** 2 / (2000 / num)).sum() < 3 * num
    assert abs(np.corrcoef([c.top for c in drawn], [c.left for c in drawn])[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("config", "num_workers", "message"),
    [
        (CropConfig(batch_size=4, crop_px=52), 1, "--crop-px 52"),
        (CropConfig(batch_size=4, crop_px=48), 3, "--num-workers 3"),
    ],
)
def test_what_the_shards_cannot_feed_is_refused(
    shards: Path, config: CropConfig, num_workers: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Feed(shards, config, 0, num_workers)


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"crop_px": 50}, {"crops_per_photograph": 0}, {"degradation": "area"}, {"seed": -1}],
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match=str(next(iter(wrong.values())))):
        CropConfig(**wrong)
