"""Validation: the averaged generator on whole photographs, shared out over the workers, recorded by rank 0."""

import dataclasses
from typing import Any

import numpy as np

from srgan_ray.config import PretrainConfig, RunConfig, to_settings
from srgan_ray.data.feed import Batch
from srgan_ray.evaluation.benchmark import BICUBIC, caption_panels
from srgan_ray.evaluation.judge import ValPair, ValPairs, measure_pair
from srgan_ray.evaluation.metrics import Measurement, Protocol
from srgan_ray.models.artifact import Card, save_generator
from srgan_ray.models.upscaler import Upscaler
from srgan_ray.training.folder import RunFolder
from srgan_ray.training.health import find_alarms
from srgan_ray.training.loop import Report
from srgan_ray.training.stages import Stage, Worker

NUM_SAMPLES = 3


class Validation:
    """Called after a step, on every rank, with the means of the training losses and the step's batch.

    Each photograph is measured on one rank, and the means are taken in the order of the photographs: these figures do
    not depend on the number of workers. Rank 0 records them, and the gradients by its part of the batch, and keeps the
    best generator; the others wait for it.
    """

    def __init__(self, config: RunConfig, stage: Stage, worker: Worker, report: Report) -> None:
        self._config, self._stage, self._worker, self._report = config, stage, worker, report
        self._pairs = ValPairs(config.data, config.crops.degradation, config.loop.max_val_photographs)
        self._folder = RunFolder(config.out)
        if worker.rank == 0:
            with self._folder.writing():
                self._folder.open(config, self._pairs.data_hash, stage.stamps, stage.state.step)

    def __call__(self, means: dict[str, float], batch: Batch) -> None:
        upscale = Upscaler(self._stage.state.averaged_generator, self._config.precision)
        measured, samples = {}, {}
        for number in range(self._worker.rank, len(self._pairs), self._worker.num_workers):
            val_pair = self._pairs[number]
            sr = upscale(val_pair.pair.lr)
            measured[number] = self._measure(val_pair, sr)
            if number < NUM_SAMPLES:
                samples[number] = sr
        gathered = self._worker.gather((means, measured, samples))
        if self._worker.rank == 0:
            all_means, all_measured, all_samples = zip(*gathered)
            with self._folder.writing():
                self._record(_mean(all_means), _mean(_in_order(all_measured)), _in_order(all_samples), batch)
        self._worker.gather(None)  # else the others' clocks would count rank 0's writing as part of the next step

    def _measure(self, val_pair: ValPair, sr: np.ndarray) -> dict[str, float]:
        figures = measure_pair(val_pair, sr)
        return {
            "loss_val": self._stage.loss_val(sr, val_pair.pair.hr),
            "psnr_val": figures.pop("psnr"),
            **figures,
        }

    def _record(
        self, means: dict[str, float], measured: dict[str, float], samples: list[np.ndarray], batch: Batch
    ) -> None:
        state = self._stage.state
        protocol = self._protocol("psnr", "y")
        row: dict[str, Any] = {
            "step": state.step,
            **means,
            **measured,
            **self._stage.gradient_norms(batch),
            "num_workers": self._worker.num_workers,
            "elapsed_s": state.elapsed_s,
            "protocol": dataclasses.asdict(protocol),
        }
        row["alarms"] = find_alarms(row)
        if state.validated(row["loss_val"]):
            names = ("psnr_val", "psnr_bicubic")
            metrics = {name: dataclasses.asdict(Measurement(row[name], protocol)) for name in names}
            save_generator(self._folder.generator_file, state.averaged_generator.state_dict(), self._card(metrics))
        pictures = {}
        for number, sr in enumerate(samples):
            pair, _, bicubic = self._pairs[number]
            pictures[pair.name] = caption_panels(pair.lr, {BICUBIC: bicubic, "SR": sr}, pair.hr)
        self._folder.record(row, pictures)
        self._report.validated(row)
        for alarm in row["alarms"]:
            self._report.say(f"alarm: {alarm}")

    def _protocol(self, metric: str, colour: str) -> Protocol:
        data = f"{self._pairs.data_hash}, {len(self._pairs)} of val"
        return Protocol(metric, colour, self._config.crops.degradation, data)

    def _card(self, metrics: dict[str, Any]) -> Card:
        stage = "pretrain" if isinstance(self._config, PretrainConfig) else "train"
        step = self._stage.state.step
        return Card(
            name=f"{self._folder.name}-{stage}-{step}",
            generator=dataclasses.asdict(self._stage.state.generator.config),
            degradation=self._config.crops.degradation,
            stage=stage,
            step=step,
            vgg_weights=self._stage.stamps["vgg_weights"],
            metrics=metrics,
            config=to_settings(self._config),
            data_hash=self._pairs.data_hash,
        )


def _in_order(parts: tuple[dict[int, Any], ...]) -> list[Any]:
    """What the ranks hold by number, as one list."""
    numbered = {number: value for part in parts for number, value in part.items()}
    return [numbered[number] for number in sorted(numbered)]


def _mean(rows: Any) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
