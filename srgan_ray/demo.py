"""The main job, once, on the photographs inside scikit-image: small enough for two cores and a few minutes."""

import contextlib
import dataclasses
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from srgan_ray.config import PretrainConfig, TrainConfig
from srgan_ray.data import images
from srgan_ray.data.crops import CropConfig
from srgan_ray.data.degrade import matlab_bicubic_up
from srgan_ray.data.feed import decode_row
from srgan_ray.data.manifest import PrepareConfig, Request, find_finished, summarize
from srgan_ray.data.shard_set import ShardSet
from srgan_ray.data.sources import list_photographs
from srgan_ray.data.storage import Folder
from srgan_ray.evaluation.benchmark import BICUBIC, EvaluateConfig, caption_panels, evaluate
from srgan_ray.evaluation.metrics import psnr
from srgan_ray.models.discriminator import DiscriminatorConfig
from srgan_ray.models.generator import GeneratorConfig
from srgan_ray.models.perceptual import RANDOM
from srgan_ray.on_ray.session import ray_session
from srgan_ray.serving.handler import ModelConfig
from srgan_ray.serving.protocol import ServeConfig
from srgan_ray.training.loop import COSINE, DROP, LoopConfig
from srgan_ray.training.run import check_run

DEGRADATION = "matlab_bicubic"
SEED = 2  # with it the split rule holds out `astronaut.png` and nothing else


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Prepare, both trainings, evaluate and the endpoint, once, on photographs that are at hand."""

    out: str
    """Folder for everything: shards, both runs, figures, the upscaled photograph, before_after.png."""


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Prepare, pretrain, train, evaluate, serve, upscale one photograph over HTTP; returns where all of it is."""
    out = Path(config.out).resolve()
    shards, pretrained, trained = out / "shards", out / "pretrained", out / "trained"
    with ray_session():
        prepared = _prepare(shards)
        _fit("pretrain: the generator alone, mean squared error", _pretrain_recipe(shards, pretrained))
        _fit("train: generator against discriminator", _train_recipe(shards, pretrained, trained))
        _say("evaluate: a photograph that was not trained on")
        lr, hr = _write_held_out(shards, out / "held_out")
        figures = {run.name: _evaluate(out, run) for run in (pretrained, trained)}
        _say("serve, and upscale that photograph over HTTP")
        sr, headers = _upscale_over_http(pretrained, trained, lr)
    picture = caption_panels(lr, {BICUBIC: matlab_bicubic_up(lr), "SR, by HTTP": sr}, hr)
    (out / "before_after.png").write_bytes(images.encode(picture, "png"))
    served_db, bicubic_db = psnr(hr, sr, "y"), psnr(hr, matlab_bicubic_up(lr), "y")
    print(f"Y-PSNR on the held-out photograph: {served_db:.2f} dB served, {bicubic_db:.2f} dB bicubic", file=sys.stderr)
    return {
        **prepared,
        "generator": str(trained),
        "vgg_weights": f"{RANDOM}: the adversarial stage shows that it runs, not what it is worth",
        "psnr_y": {
            "bicubic": bicubic_db,
            **{name: row["psnr_y"] for name, row in figures.items()},
            "served": served_db,
        },
        "http_headers": headers,
        "before_after": str(out / "before_after.png"),
    }


def _pretrain_recipe(shards: Path, out: Path) -> PretrainConfig:
    return PretrainConfig(
        data=str(shards),
        out=str(out),
        crops=CropConfig(batch_size=8, crop_px=64, degradation=DEGRADATION),
        loop=LoopConfig(steps=1500, evaluate_every=500, ema_decay=0.99, schedule=COSINE),
        generator=GeneratorConfig(num_blocks=3, num_features=24),
        learning_rate=4e-3,
    )


def _train_recipe(shards: Path, init: Path, out: Path) -> TrainConfig:
    return TrainConfig(
        data=str(shards),
        out=str(out),
        init=str(init),
        crops=CropConfig(batch_size=8, crop_px=64, degradation=DEGRADATION),
        loop=LoopConfig(steps=20, evaluate_every=10, ema_decay=0.9, schedule=DROP),
        discriminator=DiscriminatorConfig(num_features=16, num_units=128),
        learning_rate=1e-5,
        vgg_weights=RANDOM,
    )


def _prepare(folder: Path) -> dict[str, Any]:
    from srgan_ray.on_ray import ingest

    _say("prepare: photographs to shards")
    request = Request("samples", seed=SEED)
    if manifest := find_finished(PrepareConfig(request, str(folder))):
        return summarize(Folder(folder), manifest)
    return ingest.prepare(list_photographs(request.source, request.limit, request.seed), request, Folder(folder))


def _fit(what: str, config: PretrainConfig | TrainConfig) -> None:
    from srgan_ray.on_ray import trainer

    _say(what)
    check_run(config)
    trainer.fit(config)


def _write_held_out(shards: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    image = decode_row(ShardSet(shards, "val")[0])
    lr = image.lr[DEGRADATION]
    for name, pixels in (("lr", lr), ("hr", image.hr)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "astronaut.png").write_bytes(images.encode(pixels, "png"))
    return lr, image.hr


def _evaluate(out: Path, run: Path) -> dict[str, float]:
    config = EvaluateConfig(
        hr=str(out / "held_out" / "hr"),
        lr=str(out / "held_out" / "lr"),
        generator=str(run),
        json=str(out / "evaluation" / f"{run.name}.json"),
        pictures=str(out / "evaluation" / run.name),
    )
    figures = evaluate(config)["figures"]
    return next(row for name, row in figures.items() if name != BICUBIC)


def _upscale_over_http(pretrained: Path, trained: Path, lr: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    from srgan_ray.on_ray.app import endpoint

    model = ModelConfig(generator=str(trained), fidelity_generator=str(pretrained))
    with endpoint(ServeConfig(model=model, port=free_port())) as url:
        request = urllib.request.Request(
            f"{url}/upscale", data=images.encode(lr, "png"), headers={"Content-Type": "image/png"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            headers = {name: value for name, value in answer.headers.items() if name.lower().startswith("x-")}
            return images.decode(answer.read()), headers


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def _say(what: str) -> None:
    print(f"== {what}", file=sys.stderr)
