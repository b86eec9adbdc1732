import dataclasses
import errno
import io
import json
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fakes import make_shards
from srgan_ray.config import PretrainConfig, RunConfig, TrainConfig, from_dict, to_dict
from srgan_ray.data import images
from srgan_ray.data.crops import CropConfig
from srgan_ray.data.feed import Feed
from srgan_ray.data.manifest import Request
from srgan_ray.data.storage import Folder
from srgan_ray.errors import InputError
from srgan_ray.evaluation.judge import ValPairs
from srgan_ray.evaluation.metrics import psnr
from srgan_ray.models.artifact import load_generator, save_generator
from srgan_ray.models.generator import GeneratorConfig
from srgan_ray.models.upscaler import Upscaler
from srgan_ray.training import plain
from srgan_ray.training.checkpoint import Checkpoints
from srgan_ray.training.folder import RunFolder
from srgan_ray.training.loop import format_row
from srgan_ray.training.run import check_run, run, with_absolute_paths
from srgan_ray.training.stages import Worker, build_stage, single_worker
from srgan_ray.training.state import Window
from srgan_ray.training.validation import Validation


@pytest.fixture(params=["pretrain", "train"])
def config(request) -> RunConfig:
    """Of both stages."""
    return request.getfixturevalue(f"{request.param}_config")


def steps(config: RunConfig, num_steps: int, out: str = "") -> RunConfig:
    return dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=num_steps), out=out or config.out)


def checkpoints_of(config: RunConfig) -> Checkpoints:
    return Checkpoints(f"{config.out}/checkpoints", {}, print)


def final_state(config: RunConfig) -> dict:
    found = checkpoints_of(config).latest()
    assert found
    return found


def equal(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def test_ten_steps_are_five_a_restart_and_five(config: RunConfig, tmp_path: Path) -> None:
    """Bit for bit: weights, averages, optimizers and every recorded figure."""
    schedule = dataclasses.replace(config.loop, schedule="constant")
    config = dataclasses.replace(config, loop=schedule)
    whole = steps(config, 10, str(tmp_path / "whole"))
    plain.fit(whole)
    plain.fit(steps(config, 5))
    assert final_state(config)["step"] == 5
    plain.fit(steps(config, 10))
    ours, theirs = final_state(config), final_state(whole)
    for state in (ours, theirs):
        del state["elapsed_s"], state["window"]["seconds"], state["window"]["seconds_waiting"]
    assert equal(ours, theirs)
    assert untimed_rows(config) == untimed_rows(whole)
    assert [row["step"] for row in untimed_rows(config)] == [5, 10]


def untimed_rows(config: RunConfig) -> list[dict]:
    return [
        {key: value for key, value in row.items() if not key.startswith(("elapsed", "seconds"))}
        for row in RunFolder(config.out).metrics()
    ]


class Stopping(plain.PlainReport):
    """Ends the run after a step, as a kill does."""

    def __init__(self, step: int) -> None:
        super().__init__(0)
        self._step = step

    def progress(self, step: int) -> None:
        if step == self._step:
            raise KeyboardInterrupt

    def validated(self, row: dict) -> None:
        """Silent."""


def test_a_kill_between_validations_changes_no_figure(config: RunConfig, tmp_path: Path) -> None:
    """The means over the steps since a validation are of the steps before the checkpoint too."""
    often = dataclasses.replace(config.loop, checkpoint_every=2)
    config = dataclasses.replace(config, loop=often)
    whole = dataclasses.replace(config, out=str(tmp_path / "whole"))
    plain.fit(whole)
    with pytest.raises(KeyboardInterrupt):
        plain.fit(config, Stopping(9))
    assert final_state(config)["step"] == 8
    plain.fit(config)
    assert untimed_rows(config) == untimed_rows(whole)


def test_a_run_that_was_stopped_has_its_report(pretrain_config: PretrainConfig, monkeypatch) -> None:
    """Of what was validated; what ended the run comes out all the same, also where no report can be written."""

    def fail(_: RunFolder) -> None:
        raise OSError("no space left")

    report = Path(pretrain_config.out) / "report.html"
    with pytest.raises(KeyboardInterrupt):
        plain.fit(pretrain_config, Stopping(3))
    assert not report.exists()
    with pytest.raises(KeyboardInterrupt):
        plain.fit(pretrain_config, Stopping(7))
    assert "psnr_bicubic" in report.read_text()
    monkeypatch.setattr(RunFolder, "write_report", fail)
    with pytest.raises(KeyboardInterrupt):
        plain.fit(pretrain_config, Stopping(8))


def test_the_first_steps_of_a_run_end_with_validation_and_checkpoint(config: RunConfig, tmp_path: Path) -> None:
    """And it is the same run all the same: the learning rate goes by the whole of it."""
    loop = dataclasses.replace(config.loop, steps=6, evaluate_every=6, checkpoint_every=6, schedule="cosine")
    config = dataclasses.replace(config, loop=loop)
    whole = dataclasses.replace(config, out=str(tmp_path / "whole"))
    plain.fit(whole)
    assert plain.fit(config, last_step=3)["step"] == 3
    assert final_state(config)["step"] == 3
    assert plain.fit(config)["step"] == 6
    ours, theirs = final_state(config), final_state(whole)
    for name in ("generator", "averaged_generator", "generator_optimizer"):
        assert equal(ours[name], theirs[name]), name


def test_a_run_lives_on_object_storage(pretrain_config: PretrainConfig, train_config: TrainConfig, bucket: str) -> None:
    """Both stages, the first stopped and taken up again; the same weights as on local disk, and every file."""
    local = plain.fit(steps(pretrain_config, 10))
    out = f"{bucket}/runs/pretrained"
    plain.fit(steps(pretrain_config, 5, out))
    remote = plain.fit(steps(pretrain_config, 10, out))
    assert remote["run"] == out
    ours, theirs = (load_generator(summary["generator"])[0].state_dict() for summary in (remote, local))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    names = Folder(out).names()
    assert {"config.json", "metrics.jsonl", "generator.safetensors", "report.html"} < set(names)
    assert [name for name in names if name.endswith("checkpoint.json")] == [
        f"checkpoints/step_{step:08d}/checkpoint.json" for step in (5, 10)
    ]
    assert sum(name.startswith("events.out") for name in names) == 2
    assert sum(name.startswith("samples/") for name in names) == 6
    assert b"<img" in Folder(out).read("report.html")
    with pytest.raises(InputError, match=r"learning_rate = 0\.001, now 0\.5"):
        check_run(dataclasses.replace(steps(pretrain_config, 10, out), learning_rate=0.5))
    train = with_absolute_paths(dataclasses.replace(train_config, init=out, out=f"{bucket}/runs/trained"))
    check_run(train)
    assert plain.fit(train)["step"] == 10


def test_what_was_recorded_after_the_checkpoint_comes_once(pretrain_config: PretrainConfig) -> None:
    plain.fit(steps(pretrain_config, 10))
    for step in (10,):  # as after a kill between the validation and the checkpoint
        folder = Path(pretrain_config.out) / "checkpoints" / f"step_{step:08d}"
        (folder / "state.pt").unlink()
        (folder / "checkpoint.json").unlink()
        folder.rmdir()
    plain.fit(steps(pretrain_config, 10))
    lines = (Path(pretrain_config.out) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [5, 10]


def test_a_finished_run_started_again_does_nothing(pretrain_config: PretrainConfig) -> None:
    first = plain.fit(pretrain_config)
    weights = Path(first["generator"]).read_bytes()
    assert plain.fit(pretrain_config) == first
    assert Path(first["generator"]).read_bytes() == weights


def test_a_run_folder_holds_what_the_contract_says(config: RunConfig) -> None:
    terms = ("pixel",) if isinstance(config, PretrainConfig) else ("content", "adversarial")
    summary = plain.fit(config)
    out = Path(config.out)
    written = json.loads((out / "config.json").read_text())
    assert from_dict(written["config"]) == config
    assert written["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in torch.__version__
    row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"step", "loss_train", "loss_val", "psnr_val", "psnr_bicubic", "elapsed_s"} <= set(row)
    assert 0 <= row["seconds_waiting"] <= row["seconds_per_step"]
    assert row["protocol"]["degradation"] == "opencv_cubic"
    assert summary["psnr_val"] == row["psnr_val"]
    assert len(list((out / "checkpoints").glob("step_*"))) == 2
    samples = sorted((out / "samples").glob("*.png"))
    assert len(samples) == 2 * 3
    assert images.decode(samples[0].read_bytes()).shape == (140, 4 * 152, 3)
    events = EventAccumulator(str(out))
    events.Reload()
    assert [event.step for event in events.Scalars("psnr_val")] == [5, 10]
    for name in events.Tags()["images"]:
        [_, last] = events.Images(name)
        assert last.encoded_image_string == (out / "samples" / f"{name}_step_00000010.png").read_bytes()
        assert (last.width, last.height, last.step) == (4 * 152, 140, 10)
    assert len(events.Tags()["images"]) == 3
    assert {"colour_drift", "checkerboard", "consistency_db", "alarms"} <= set(row)
    pulls = {name for name in row if name.startswith("gradient_norm_")}
    assert pulls == {f"gradient_norm_{term}" for term in terms}
    assert all(row[name] > 0 for name in pulls)
    assert "psnr_bicubic" in (out / "report.html").read_text()


def test_the_generator_file_gives_the_figures_on_its_card(config: RunConfig) -> None:
    """What was validated is what is released: averaged weights through the same upscaler."""
    generator, card = load_generator(plain.fit(config)["generator"])
    pairs = ValPairs(config.data, config.crops.degradation, config.loop.max_val_photographs)
    upscale = Upscaler(generator, config.precision)
    values = [psnr(pair.hr, upscale(pair.lr), "y") for pair, *_ in pairs]
    assert card.metrics["psnr_val"]["value"] == pytest.approx(sum(values) / len(values))
    assert card.metrics["psnr_val"]["protocol"]["data_hash"] == f"{pairs.data_hash}, 4 of val"
    assert card.data_hash == pairs.data_hash
    assert card.stage == to_dict(config)["stage"]
    assert card.degradation == "opencv_cubic"
    assert ("random" in card.vgg_weights) == (card.stage == "train")
    assert card.config["loop"]["steps"] == config.loop.steps
    assert str(Path(config.out).parent) not in json.dumps(card.config), "a generator file tells nothing of its machine"


def test_the_best_generator_is_kept_not_the_last(pretrain_config: PretrainConfig) -> None:
    plain.fit(steps(pretrain_config, 5))
    best = load_generator(Path(pretrain_config.out) / "generator.safetensors")[1]
    assert best.step == 5
    checkpoint = final_state(pretrain_config)
    checkpoint["lowest_loss_val"] = 0.0  # nothing can be better
    with checkpoints_of(pretrain_config) as checkpoints:
        checkpoints.save(checkpoint)
    plain.fit(steps(pretrain_config, 10))
    assert load_generator(Path(pretrain_config.out) / "generator.safetensors")[1].step == 5


def test_training_starts_from_the_pretrained_weights(train_config: TrainConfig) -> None:
    """With a learning rate of nearly 0, what comes out is what went in."""
    still = dataclasses.replace(train_config, learning_rate=1e-12)
    plain.fit(steps(still, 1))
    before = load_generator(Path(train_config.init) / "generator.safetensors")[0].state_dict()
    after = final_state(still)["generator"]
    torch.testing.assert_close(after["tail.weight"], before["tail.weight"])


def test_pretraining_goes_on_from_a_generator(pretrain_config: PretrainConfig, tmp_path: Path) -> None:
    plain.fit(pretrain_config)
    on = dataclasses.replace(pretrain_config, init=pretrain_config.out, out=str(tmp_path / "on"), learning_rate=1e-12)
    plain.fit(steps(on, 1))
    before = load_generator(Path(pretrain_config.out) / "generator.safetensors")[0].state_dict()
    torch.testing.assert_close(final_state(on)["generator"]["tail.weight"], before["tail.weight"])
    with pytest.raises(InputError, match=r"num_blocks=1.*wanted.*num_blocks=2.*: give --generator.num-blocks 1 "):
        check_run(dataclasses.replace(on, generator=GeneratorConfig(2, 8)))


def test_mixed_validates_under_both_degradations(pretrain_config: PretrainConfig) -> None:
    crops = dataclasses.replace(pretrain_config.crops, degradation="mixed")
    pairs = ValPairs(pretrain_config.data, crops.degradation, 32)
    assert len(pairs) == 8
    assert {pair.name.split("_", 1)[1] for pair, *_ in pairs} == {"opencv_cubic", "matlab_bicubic"}


def test_three_workers_validate_as_one(pretrain_config: PretrainConfig, tmp_path: Path) -> None:
    """Each photograph once, though they cannot be shared out evenly; losses of the training are means over them."""
    batch = Feed(pretrain_config.data, pretrain_config.crops).batch(1)

    def validate(config: RunConfig, worker: Worker, loss_train: float) -> None:
        stage = build_stage(config, worker)
        Validation(config, stage, worker, Stopping(0))({"loss_train": loss_train}, batch)

    def row(config: RunConfig) -> dict:
        [found] = RunFolder(config.out).metrics()
        return {name: value for name, value in found.items() if isinstance(value, float)}

    shared, held = dataclasses.replace(pretrain_config, out=str(tmp_path / "shared")), list[tuple]()

    def gather(part: tuple | None) -> list:
        held.extend([part] if part else [])
        return held

    for rank in (2, 1, 0):
        worker = single_worker()._replace(rank=rank, num_workers=3, gather=gather)
        validate(shared, worker, float(rank))
        assert Path(shared.out).exists() == (rank == 0), "rank 0 alone writes"
    assert sorted(number for _, measured, _ in held for number in measured) == [0, 1, 2, 3]
    validate(pretrain_config, single_worker(), 1.0)
    assert row(shared) == pytest.approx(row(pretrain_config))
    assert len(list((Path(shared.out) / "samples").iterdir())) == 3


def test_no_rank_goes_on_before_a_validation_is_written_down(
    pretrain_config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, meeting, record = [None, None], threading.Barrier(2, timeout=60), RunFolder.record
    batch = Feed(pretrain_config.data, pretrain_config.crops).batch(1)

    def validate(rank: int) -> bool:
        def gather(part: Any) -> list:
            parts[rank] = part
            meeting.wait()
            found = list(parts)
            meeting.wait()
            return found

        worker = single_worker()._replace(rank=rank, num_workers=2, gather=gather)
        Validation(pretrain_config, build_stage(pretrain_config, worker), worker, Stopping(0))({}, batch)
        return bool(RunFolder(pretrain_config.out).metrics())

    def record_slowly(self: RunFolder, *given: Any) -> None:
        time.sleep(0.5)
        record(self, *given)

    monkeypatch.setattr(RunFolder, "record", record_slowly)
    with ThreadPoolExecutor(2) as ranks:
        assert list(ranks.map(validate, (0, 1))) == [True, True]


def test_no_thread_of_a_run_stays(pretrain_config: PretrainConfig) -> None:
    before = set(threading.enumerate())
    plain.fit(steps(pretrain_config, 1))
    assert "_AsyncWriterThread" not in {type(thread).__name__ for thread in set(threading.enumerate()) - before}


def test_rank_0_alone_writes(pretrain_config: PretrainConfig) -> None:
    worker = single_worker()._replace(rank=1, num_workers=2, gather=lambda value: [value] * 2)
    run(pretrain_config, worker, Stopping(0))
    assert not Path(pretrain_config.out).exists()


def test_ranks_begin_after_the_same_step(pretrain_config: PretrainConfig) -> None:
    """Where one rank alone passed a checkpoint over, they would take unlike steps together."""
    apart = single_worker()._replace(rank=1, num_workers=2, gather=lambda step: [5, step])
    with pytest.raises(RuntimeError, match=r"the ranks begin after unlike steps, \{0, 5\}"):
        run(pretrain_config, apart, Stopping(0))


def test_another_run_in_the_folder_is_refused(
    pretrain_config: PretrainConfig, photographs: Path, tmp_path: Path
) -> None:
    plain.fit(steps(pretrain_config, 1))
    check_run(steps(pretrain_config, 99))
    with pytest.raises(InputError, match=r"learning_rate = 0\.001, now 0\.5"):
        check_run(dataclasses.replace(pretrain_config, learning_rate=0.5))
    fewer = dataclasses.replace(pretrain_config.loop, max_val_photographs=2)  # whose losses do not compare
    with pytest.raises(InputError, match=r"loop\.max_val_photographs = 32, now 2; wanted the same setting"):
        check_run(dataclasses.replace(pretrain_config, loop=fewer))
    make_shards(tmp_path / "shards", Request(str(photographs), val_fraction=0.5, min_side_px=48, seed=1))
    with pytest.raises(
        InputError, match=r"holds a run of the data \w+; --data .*shards holds \w+: wanted the same data"
    ):
        check_run(dataclasses.replace(pretrain_config, data=str(tmp_path / "shards")))
    (tmp_path / "killed_early" / "checkpoints").mkdir(parents=True)
    check_run(dataclasses.replace(pretrain_config, out=str(tmp_path / "killed_early")))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        check_run(dataclasses.replace(pretrain_config, out=str(tmp_path / "other")))


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "clip"}', '{"config": {}}', b"\xff\xfe"])
def test_a_config_of_something_else_is_refused(pretrain_config: PretrainConfig, content: str | bytes) -> None:
    Folder(pretrain_config.out).write("config.json", content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"--out .*pretrained holds a config\.json of something else.*; wanted a new"):
        check_run(pretrain_config)


def test_a_full_disk_is_said_in_words(pretrain_config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for where in ("srgan_ray.data.storage._write_local", "srgan_ray.training.folder.SummaryWriter"):
        monkeypatch.setattr(where, full)
        with pytest.raises(InputError, match=r"--out .*pretrained.* cannot be written.*No space left on device"):
            plain.fit(pretrain_config)
        monkeypatch.undo()
    assert plain.fit(pretrain_config)["step"] == 10


def test_two_commands_do_not_work_on_one_run(pretrain_config: PretrainConfig) -> None:
    with RunFolder(pretrain_config.out).locked():
        code = (
            f"from srgan_ray.training.folder import RunFolder\nwith RunFolder({pretrain_config.out!r}).locked(): pass"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "another command is at work in it" in other.stderr
    plain.fit(steps(pretrain_config, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": "nowhere"}, "--init nowhere"),
        ({"vgg_weights": "nowhere.pth"}, "--vgg-weights"),
        ({"data": "nowhere"}, "--data nowhere"),
    ],
)
def test_missing_beginnings_are_refused(train_config: TrainConfig, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_run(dataclasses.replace(train_config, **change))


def test_a_missing_generator_to_go_on_from_is_refused(pretrain_config: PretrainConfig) -> None:
    with pytest.raises(InputError, match="--init nowhere does not exist"):
        check_run(dataclasses.replace(pretrain_config, init="nowhere"))


def test_files_that_the_losses_read_stay_the_same(train_config: TrainConfig, tmp_path: Path) -> None:
    """The hash of the one and the stamp of the other are in the run's record; their names alone may stay."""
    faithful = tmp_path / "faithful.safetensors"
    generator, card = load_generator(Path(train_config.init) / "generator.safetensors")
    save_generator(faithful, generator.state_dict(), card)
    config = dataclasses.replace(train_config, fidelity_generator=str(faithful), pixel_weight=1.0)
    plain.fit(config, last_step=2)
    record = Path(config.out) / "config.json"
    before, same = record.read_text(), faithful.read_bytes()
    save_generator(faithful, generator.state_dict(), dataclasses.replace(card, step=card.step + 1))
    with pytest.raises(InputError, match=r"--fidelity-generator: .* holds a run with [0-9a-f]{16}, now [0-9a-f]{16}"):
        plain.fit(config)
    faithful.write_bytes(same)
    record.write_text(before.replace("random, seed 0", "random, seed 1"))
    with pytest.raises(InputError, match=r"--vgg-weights: .* holds a run with random, seed 1, now random, seed 0"):
        plain.fit(config)
    record.write_text(before)
    assert plain.fit(config)["step"] == 10


def test_fewer_steps_than_were_taken_are_refused(pretrain_config: PretrainConfig) -> None:
    often = dataclasses.replace(pretrain_config.loop, checkpoint_every=2, evaluate_every=8)
    config = dataclasses.replace(pretrain_config, loop=often)
    with pytest.raises(KeyboardInterrupt):
        plain.fit(config, Stopping(5))
    for num_steps in (3, 4):
        with pytest.raises(InputError, match=rf"--steps {num_steps}: .* is at step 4; wanted more"):
            check_run(steps(config, num_steps))
    plain.fit(steps(config, 6))
    check_run(steps(config, 6))
    plain.fit(steps(config, 8))
    with pytest.raises(InputError, match=r"--steps 6: .* is at step 8; wanted more"):
        check_run(steps(config, 6))  # where it was validated


def test_a_damaged_shard_is_said_in_words(shards: Path, pretrain_config: PretrainConfig, tmp_path: Path) -> None:
    for name, content in (("cut", lambda whole: whole[: len(whole) // 2]), ("blank", blank_the_images)):
        copy = shutil.copytree(shards, tmp_path / name)
        for shard in (copy / "train").iterdir():
            shard.write_bytes(content(shard.read_bytes()))
        with pytest.raises(InputError, match=r"--data: .* is damaged.*: prepare again with --overwrite"):
            plain.fit(dataclasses.replace(pretrain_config, data=str(copy), out=str(tmp_path / f"run_{name}")))


def blank_the_images(shard: bytes) -> bytes:
    table = pq.read_table(io.BytesIO(shard))
    blank = pa.array([b"not an image"] * len(table), table.schema.field("hr").type)
    sink = io.BytesIO()
    pq.write_table(table.set_column(table.schema.get_field_index("hr"), "hr", blank), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crops": CropConfig(crop_px=12)}, "--crop-px 12; wanted 16 or more"),
        ({"content_weight": 0.0, "adversarial_weight": 0.0}, "--content-weight 0.0, and all other weights"),
    ],
)
def test_what_cannot_train_is_refused(train_config: TrainConfig, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(train_config, **change)


@pytest.mark.parametrize(("stage", "least_px"), [(PretrainConfig, 8), (TrainConfig, 20)])
@pytest.mark.parametrize("sharing", [{"num_workers": 1}, {"num_workers": 2, "min_workers": 1}])
def test_statistics_of_one_value_are_refused(stage: type[RunConfig], least_px: int, sharing: dict) -> None:
    """One crop for each worker, and one pixel of it."""
    one_each = CropConfig(batch_size=sharing["num_workers"], crop_px=least_px - 4)
    settings = {"data": "data", "out": "out", "init": "psnr", **sharing}
    with pytest.raises(InputError, match=r"--crop-px \d+ --batch-size \d --num-workers \d; BatchNorm would see one"):
        stage(**settings, crops=one_each)
    stage(**settings, crops=dataclasses.replace(one_each, crop_px=least_px))
    stage(**settings, crops=dataclasses.replace(one_each, batch_size=2 * one_each.batch_size))


@pytest.mark.parametrize("crops", [CropConfig(2, 16), CropConfig(1, 20)])
def test_statistics_of_two_values_and_more_can_be_trained_with(train_config: TrainConfig, crops: CropConfig) -> None:
    assert plain.fit(steps(dataclasses.replace(train_config, crops=crops), 1))["step"] == 1


def test_a_loss_without_weight_pulls_at_nothing_and_alarms_nobody(train_config: TrainConfig) -> None:
    plain.fit(steps(dataclasses.replace(train_config, adversarial_weight=0.0), 1))
    [row] = RunFolder(train_config.out).metrics()
    assert {name for name in row if name.startswith("gradient_norm_")} == {"gradient_norm_content"}
    assert not [alarm for alarm in row["alarms"] if "gradient_norm" in alarm]


@pytest.mark.parametrize("setting", ["init", "fidelity_generator"])
def test_a_damaged_generator_is_named_by_its_setting(train_config: TrainConfig, setting: str, tmp_path: Path) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    given = {setting: str(tmp_path / "damaged.safetensors"), "pixel_weight": 1.0}
    with pytest.raises(InputError, match=rf"^--{setting.replace('_', '-')} .*damaged.safetensors is no generator file"):
        check_run(dataclasses.replace(train_config, **given))


def test_unknown_settings_are_refused(pretrain_config: PretrainConfig) -> None:
    values = to_dict(pretrain_config)
    values["loop"]["stepz"] = 3
    with pytest.raises(InputError, match="stepz"):
        from_dict(values)


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(pretrain_config: PretrainConfig) -> None:
    window = Window()
    window.add({"loss": torch.tensor(float("nan"))})
    with pytest.raises(FloatingPointError, match="--learning-rate"):
        window.check_finite()
    with pytest.raises(FloatingPointError):
        plain.fit(dataclasses.replace(steps(pretrain_config, 10), learning_rate=1e30))
    assert not list((Path(pretrain_config.out) / "checkpoints").glob("step_*"))


def test_the_line_on_the_console() -> None:
    row = {"step": 1000, "loss_train": 0.5, "loss_val": 0.25, "psnr_val": 28.1234, "elapsed_s": 93.21}
    assert format_row(row, 20000) == (
        "1000/20000: loss_train = 0.500000, loss_val = 0.250000, psnr_val = 28.123 (93.2 s)"
    )
