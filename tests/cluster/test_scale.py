"""The arithmetic of other sizes, beside numbers worked out by hand."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scale.py"


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", SCRIPT)
    assert spec
    assert spec.loader
    module = sys.modules["scale"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def inputs(scale: ModuleType):
    """Round figures: a step of 0.1 s, 1 Gbit/s, 10 ms for an answer, nothing between the machines."""
    return scale.Inputs(
        step_s=0.1, batch_size=10, steps=1000, crops_per_photograph=4, crop_cpu_s=0.01, prepare_cpu_s=0.02,
        cpus_per_gpu=4, source_bytes=2**20 / 10, shard_ratio=2, driver_bytes=1000, pair_s=1e-9, driver_memory_gb=1,
        network_gbit=1, hop_s=0, request_s=0.01, requests_per_s=1e9, gpu_hour=1, cpu_hour=0.1, gb_month=0.02,
        read_request=0, write_request=0,
    )  # fmt: skip


def test_the_gradients_are_those_of_the_papers_networks(scale: ModuleType) -> None:
    assert scale.gradient_bytes("pretrain") == 4 * 1_547_350
    assert scale.gradient_bytes("train") == 4 * (1_547_350 + 23_563_649)


def test_all_reduce(scale: ModuleType, inputs) -> None:
    assert scale.all_reduce_bytes(inputs, 1) == 0
    assert scale.all_reduce_bytes(inputs, 2) == 6_189_400  # 2 · 1/2 of 6.2 MB
    assert scale.all_reduce_bytes(inputs, 8) == pytest.approx(10_831_450)  # 2 · 7/8
    assert scale.all_reduce_s(inputs, 2) == pytest.approx(0.0495152)  # at 125 MB/s
    slow = dataclasses.replace(inputs, hop_s=0.001)
    assert scale.all_reduce_s(slow, 8) == pytest.approx(0.0866516 + 0.014)  # 14 messages


def test_one_gpu_by_hand(scale: ModuleType, inputs) -> None:
    line = scale.estimate(inputs, 1, 6400)
    assert line.loads["decoding and cropping"] == pytest.approx(0.25)  # 10 crops · 0.01 s on 4 CPUs, in 0.1 s
    # 100 shards, each 2 waits of 10 ms, 8 shards at a time; 1,342 MB at 125 MB/s; over 2,560 steps
    assert line.shard_bytes == pytest.approx(6400 * 2**20 / 10 * 2)
    assert line.loads["reading shards"] == pytest.approx((0.25 + 1_342_177_280 / 125e6) / 2560 / 0.1)
    assert line.step_s == pytest.approx(0.1)
    assert line.epoch_s == pytest.approx(256)
    assert line.run_s == pytest.approx(100)
    assert line.requests == 200
    # 6,400 · 0.02 s on 4 CPUs, 640 parts · 6 waits of 10 ms, 8 at a time, 20 · 12,800² / 8,192 pairs of 1 ns
    assert line.prepare_s == pytest.approx(32 + 4.8 + 0.0004)
    assert line.loads["the driver's memory"] == pytest.approx(0.0064)
    assert line.loads["reading the findings"] == pytest.approx(0.15)
    assert line.breaks_first == "decoding and cropping"
    assert line.dollars == pytest.approx(36.8004 / 3600 * 0.4 + 100 / 3600 + 1.34217728 * 0.02)


def test_each_of_many_workers_reads_most_of_every_shard(scale: ModuleType) -> None:
    assert scale.touched(1, 8) == 1
    assert scale.touched(2, 8) == pytest.approx(255 / 256)
    assert scale.touched(8, 8) == pytest.approx(0.6564, abs=1e-4)
    assert scale.touched(64, 64) == pytest.approx(0.6350, abs=1e-4)


def test_that_is_what_the_feed_reads(scale: ModuleType) -> None:
    """Of 8 workers' rows in whole windows, by the stream that deals them out."""
    from srgan_ray.data.crops import Stream

    stream = Stream([8] * 128, seed=0)
    window = stream.window(0)
    rows = stream.rows(window)
    shards = [len({int(row) // 8 for row in rows[rank::8]}) / 16 for rank in range(8)]
    assert sum(shards) / 8 == pytest.approx(scale.touched(8, 8), abs=0.1)


@pytest.mark.parametrize("load", ["all-reduce", "decoding and cropping", "reading shards", "the driver's memory"])
def test_the_part_that_is_made_worse_breaks_first(scale: ModuleType, inputs, load: str) -> None:
    worse = {
        "all-reduce": {"network_gbit": 0.1, "request_s": 0, "source_bytes": 1},
        "decoding and cropping": {"crop_cpu_s": 10},
        "reading shards": {"request_s": 90, "prepare_cpu_s": 1e6},
        "the driver's memory": {"driver_bytes": 1e9},
    }[load]
    assert scale.estimate(dataclasses.replace(inputs, **worse), 8, 6400).breaks_first == load


def test_the_clouds_page_says_what_comes_out(scale: ModuleType) -> None:
    page = (SCRIPT.parents[1] / "cluster" / "cloud" / "README.md").read_text()
    assert f"reads {scale.REQUESTS_AT_ONCE} shards at once" in page
    known = scale.complete(scale.Inputs(driver_bytes=2000, pair_s=3e-7))
    few, more, many = (scale.estimate(known, *size) for size in ((1, 20_000), (8, 20_000), (8, 1_000_000)))
    assert few.loads["reading shards"] == pytest.approx(0.2, abs=0.05)
    assert more.loads["all-reduce"] > 1
    assert more.breaks_first == "reading the findings"
    assert many.breaks_first == "the search for look-alikes"


def test_more_never_takes_less(scale: ModuleType, inputs) -> None:
    sizes = [scale.estimate(inputs, 8, number) for number in (10_000, 100_000, 1_000_000)]
    for name in ("prepare_s", "epoch_s", "shard_bytes", "read_bytes", "requests", "dollars"):
        values = [getattr(line, name) for line in sizes]
        assert values == sorted(values), name
    gpus = [scale.estimate(inputs, number, 100_000) for number in (1, 2, 8, 64)]
    for name, direction in (("step_s", 1), ("all_reduce_bytes", 1), ("read_bytes", 1), ("prepare_s", -1)):
        values = [direction * getattr(line, name) for line in gpus]
        assert values == sorted(values), name
    assert gpus[-1].read_bytes < 64 * gpus[0].read_bytes  # at most every shard by each worker


def test_what_is_measured(scale: ModuleType) -> None:
    from srgan_ray.on_ray.ingest import PART_BYTES

    assert scale.PART_BYTES == PART_BYTES
    few, many = scale.measure_driver_bytes(300), scale.measure_driver_bytes(1200)
    assert 1000 < few < 5000
    assert many == pytest.approx(few, rel=0.3)  # it grows with the photographs, not faster
    assert 1e-9 < scale.measure_pair_s(4000) < 1e-4
    assert scale.num_pairs(20_000) == 20 * 40_000**2 / 8192


def test_the_table_and_the_json(scale: ModuleType, capsys) -> None:
    scale.main(scale.BenchmarkConfig(scale.Inputs(driver_bytes=2000, pair_s=3e-7)))
    *table, last = capsys.readouterr().out.splitlines()
    assert len(table) == 10
    result = json.loads(last)
    assert [line["gpus"] for line in result["estimates"]] == [1, 8, 64] * 3
    assert result["inputs"]["step_s"] == 1 / 250
    for text, line in zip(table[1:], result["estimates"]):
        assert f"{line['photographs']:,}" in text
        assert line["breaks_first"] in text
