"""A run, from its config to its folder; the same under Ray Train, in one plain process, and in a test."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srgan_ray.config import PretrainConfig, RunConfig, TrainConfig, to_dict
from srgan_ray.data.crops import MIXED
from srgan_ray.data.degrade import matlab_bicubic_up
from srgan_ray.data.feed import Feed, check_feed, decode_row
from srgan_ray.data.manifest import read_manifest
from srgan_ray.data.shard_set import ShardSet
from srgan_ray.data.storage import absolute
from srgan_ray.evaluation.benchmark import BICUBIC, Pair, caption_panels
from srgan_ray.evaluation.metrics import Measurement, Protocol, psnr
from srgan_ray.models.artifact import Card, save_generator
from srgan_ray.models.upscaler import Upscaler
from srgan_ray.training.checkpoint import read_checkpoint
from srgan_ray.training.folder import RunFolder
from srgan_ray.training.loop import Report, train
from srgan_ray.training.memory import keep_freed_memory
from srgan_ray.training.stages import Stage, Worker, build_stage, check_stage

NUM_SAMPLES = 3


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config as processes with other working directories need it."""
    if isinstance(config, TrainConfig):
        weights = str(Path(config.vgg_weights).resolve()) if Path(config.vgg_weights).is_file() else config.vgg_weights
        config = dataclasses.replace(config, init=str(Path(config.init).resolve()), vgg_weights=weights)
    return dataclasses.replace(config, data=absolute(config.data), out=str(Path(config.out).resolve()))


def check_run(config: RunConfig) -> None:
    """Raise InputError for what a run would stumble over: shards, files to begin from, another run in its folder."""
    check_feed(config.data, config.crops, config.num_workers)
    check_stage(config)
    RunFolder(config.out).check(config, read_manifest(config.data).data_hash)


def run(config: RunConfig, worker: Worker, report: Report, checkpoint: Path | None) -> None:
    """Train from `checkpoint`, or from the beginning, to the last step; rank 0 validates and fills the run folder."""
    keep_freed_memory()
    stage = build_stage(config, worker)
    torch.manual_seed(config.crops.seed)
    if checkpoint:
        stage.state.load_state_dict(read_checkpoint(checkpoint))
    feed = Feed(config.data, config.crops, worker.rank, worker.num_workers, torch.get_num_threads())
    batches = feed.batches(stage.state.step + 1, config.loop.steps)
    evaluate = Evaluation(config, stage, report) if worker.rank == 0 else None
    train(stage.state, stage.take_step, batches, evaluate, report, config.learning_rate, config.loop)


class Evaluation:
    """Called after a step with the means of the training losses: validates the averaged generator, records it all."""

    def __init__(self, config: RunConfig, stage: Stage, report: Report) -> None:
        self._config, self._stage, self._report = config, stage, report
        self._pairs, self._data_hash = load_val_pairs(config)
        self._bicubic = [matlab_bicubic_up(pair.lr) for pair in self._pairs]
        self._folder = RunFolder(config.out)
        self._folder.open(config, self._data_hash, stage.vgg_stamp, stage.state.step)

    def __call__(self, means: dict[str, float]) -> None:
        state = self._stage.state
        upscale = Upscaler(state.averaged_generator, self._config.precision)
        outputs = [upscale(pair.lr) for pair in self._pairs]
        loss_val = float(np.mean([self._stage.loss_val(sr, pair.hr) for sr, pair in zip(outputs, self._pairs)]))
        psnr_val, psnr_bicubic = self._psnr(outputs), self._psnr(self._bicubic)
        row = {
            "step": state.step,
            **means,
            "loss_val": loss_val,
            "psnr_val": psnr_val.value,
            "psnr_bicubic": psnr_bicubic.value,
            "elapsed_s": state.elapsed_s,
            "protocol": dataclasses.asdict(psnr_val.protocol),
        }
        self._folder.record(row)
        self._save_samples(outputs)
        if loss_val < state.lowest_loss_val:
            state.lowest_loss_val = loss_val
            metrics = {"psnr_val": dataclasses.asdict(psnr_val), "psnr_bicubic": dataclasses.asdict(psnr_bicubic)}
            weights = state.averaged_generator.state_dict()
            save_generator(self._folder.generator_file, weights, self._card(metrics))
        self._report.evaluated(row)

    def _psnr(self, outputs: list[np.ndarray]) -> Measurement:
        data = f"{self._data_hash}, {len(outputs)} of val"
        protocol = Protocol("psnr", "y", self._config.crops.degradation, data)
        return Measurement(float(np.mean([psnr(pair.hr, sr, "y") for pair, sr in zip(self._pairs, outputs)])), protocol)

    def _save_samples(self, outputs: list[np.ndarray]) -> None:
        for pair, bicubic, sr in list(zip(self._pairs, self._bicubic, outputs))[:NUM_SAMPLES]:
            picture = caption_panels(pair.lr, {BICUBIC: bicubic, "SR": sr}, pair.hr)
            self._folder.add_sample(self._stage.state.step, pair.name, picture)

    def _card(self, metrics: dict[str, Any]) -> Card:
        stage = "pretrain" if isinstance(self._config, PretrainConfig) else "train"
        step = self._stage.state.step
        return Card(
            name=f"{self._folder.path.name}-{stage}-{step}",
            generator=dataclasses.asdict(self._stage.state.generator.config),
            degradation=self._config.crops.degradation,
            stage=stage,
            step=step,
            vgg_weights=self._stage.vgg_stamp,
            metrics=metrics,
            config=to_dict(self._config),
            data_hash=self._data_hash,
        )


def load_val_pairs(config: RunConfig) -> tuple[list[Pair], str]:
    """The validation photographs, each under every degradation that is trained on, and the shard set's hash."""
    rows = ShardSet(config.data, "val")
    wanted_rows = rows.read(range(min(len(rows), config.loop.max_val_photographs)))
    images = [decode_row(row) for row in wanted_rows.values()]
    wanted = config.crops.degradation
    return [
        Pair(f"{image.id[:8]}_{name}", image.hr, lr)
        for image in images
        for name, lr in image.lr.items()
        if wanted in (name, MIXED)
    ], rows.manifest.data_hash
