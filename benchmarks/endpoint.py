"""The endpoint beside what it is made of, on the same cores, in turns.

1. Saturated: megapixels/s of the endpoint under load, over those of the bare generator on ready tensors (wanted 0.9).
2. One request: its seconds over those of decoding, upscaling and encoding done by hand (wanted at most 1.15).
3. Megapixels/s of the endpoint over those of Real-ESRGAN's way of doing it: fp32, one image at a time, edges mirrored
   by 10 pixels, tiles of 400 with 10 of overlap (its `inference_realesrgan.py --fp32 --tile 400`; wanted 3).
4. Twenty requests of one tile beside one of forty: their 95th percentile over that without it (wanted under 3).

    python benchmarks/endpoint.py --seconds 30 --rounds 3
"""

import contextlib
import dataclasses
import json
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np
import skimage.data
import torch
import tyro
from torch.nn.functional import pad

from srgan_ray.data import images
from srgan_ray.demo import free_port
from srgan_ray.models.artifact import find_generator, load_generator
from srgan_ray.models.generator import Generator
from srgan_ray.models.upscaler import TILE_PX, Upscaler
from srgan_ray.on_ray.session import ray_session
from srgan_ray.serving.handler import ModelConfig
from srgan_ray.serving.picture import decode_picture, encode_picture, enlarge
from srgan_ray.serving.protocol import Limits, ServeConfig

NUM_CLIENTS = 8
MEGA = 1_000_000
TILE_OF_THEIRS_PX, PAD_PX = 400, 10
NUM_SMALL, LARGE = 20, (5 * TILE_PX, 8 * TILE_PX)


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """The endpoint beside what it is made of."""

    generator: str = "psnr"
    """Which generator is served."""
    seconds: float = 30
    """Of each measurement of a rate."""
    rounds: int = 3
    """Alternations; medians are taken over them."""


def main(config: BenchmarkConfig) -> None:
    """Measure all four and print one JSON object."""
    generator, _ = load_generator(find_generator(config.generator))
    serve = ServeConfig(ModelConfig(config.generator), Limits(max_waiting=64, time_limit_s=600), port=free_port())
    with ray_session():
        from srgan_ray.on_ray.app import endpoint

        with endpoint(serve) as url:
            results: dict[str, object] = {
                "precision": Upscaler(generator).precision,
                "saturated": _saturated(config, url, generator),
                "latency": _latency(config, url, generator),
                "fairness": _fairness(config, url),
            }
    print(json.dumps(results))


def _saturated(config: BenchmarkConfig, url: str, generator: Generator) -> dict[str, float]:
    body = images.encode(photograph(TILE_PX, TILE_PX), "jpeg")
    upscaler = Upscaler(generator)
    tiles = [(photograph(TILE_PX, TILE_PX), upscaler.tiles(TILE_PX, TILE_PX)[0])] * 2
    ours = {
        "bare": lambda: _rate(lambda: upscaler.run(tiles), 2 * TILE_PX**2, config.seconds),
        "endpoint": lambda: _rate_of_endpoint(url, body, TILE_PX**2, config.seconds),
        "theirs": lambda: _rate(lambda: _their_way(generator, body), TILE_PX**2, config.seconds),
    }
    rates = _alternate(ours, config.rounds)
    return {
        **{f"{name}_mp_per_s": rate for name, rate in rates.items()},
        "endpoint_over_bare": rates["endpoint"] / rates["bare"],
        "endpoint_over_theirs": rates["endpoint"] / rates["theirs"],
    }


def _latency(config: BenchmarkConfig, url: str, generator: Generator) -> dict[str, float]:
    body = images.encode(photograph(300, 400), "jpeg")
    upscaler = Upscaler(generator)
    ways = {
        "by_hand": lambda: encode_picture(enlarge(decode_picture(body), upscaler), "png"),
        "endpoint": lambda: post(url, body),
    }
    seconds = _alternate({name: partial(_seconds, way) for name, way in ways.items()}, 4 * config.rounds)
    return {
        **{f"{name}_s": value for name, value in seconds.items()},
        "ratio": seconds["endpoint"] / seconds["by_hand"],
    }


def _fairness(config: BenchmarkConfig, url: str) -> dict[str, float]:
    small, large = (images.encode(photograph(*size), "jpeg") for size in ((TILE_PX, TILE_PX), LARGE))

    def beside() -> float:
        with _posting(url, large):
            time.sleep(1)
            return _p95(url, small)

    p95 = _alternate({"alone": lambda: _p95(url, small), "beside": beside}, config.rounds)
    return {**{f"p95_{name}_s": value for name, value in p95.items()}, "ratio": p95["beside"] / p95["alone"]}


def _alternate(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    values = [{name: way() for name, way in ways.items()} for _ in range(rounds + 1)][1:]  # the first one warms up
    medians = {name: statistics.median(value[name] for value in values) for name in ways}
    print(", ".join(f"{name} {value:.3f}" for name, value in medians.items()), file=sys.stderr)
    return medians


def _rate(run: Callable[[], object], num_px: int, seconds: float) -> float:
    """Megapixels/s of LR."""
    started, num = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        run()
        num += 1
    return num * num_px / MEGA / (time.perf_counter() - started)


def _rate_of_endpoint(url: str, body: bytes, num_px: int, seconds: float) -> float:
    """From the first answer after the queue is full to the last one before the clients stop: neither end is idle."""
    ends: list[float] = []
    stop_at = time.perf_counter() + seconds

    def client() -> None:
        while time.perf_counter() < stop_at:
            post(url, body)
            ends.append(time.perf_counter())

    with ThreadPoolExecutor(NUM_CLIENTS) as executor:
        for future in [executor.submit(client) for _ in range(NUM_CLIENTS)]:
            future.result()
    busy = sorted(end for end in ends if end < stop_at)[NUM_CLIENTS // 2 :]
    return (len(busy) - 1) * num_px / MEGA / (busy[-1] - busy[0])


def _p95(url: str, body: bytes) -> float:
    with ThreadPoolExecutor(NUM_SMALL) as executor:
        seconds = list(executor.map(lambda _: _seconds(lambda: post(url, body)), range(NUM_SMALL)))
    return float(np.percentile(seconds, 95))


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@contextlib.contextmanager
def _posting(url: str, body: bytes) -> Iterator[None]:
    """Beside one request, which has its answer at the end."""
    thread = threading.Thread(target=post, args=(url, body))
    thread.start()
    yield
    assert thread.is_alive(), "the large request was done before the small ones: nothing was measured"
    thread.join()


def _their_way(generator: Generator, body: bytes) -> bytes:
    """A file's bytes to a file's bytes, as Real-ESRGAN's script does it on a CPU."""
    levels = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert levels is not None
    lr = torch.from_numpy(np.ascontiguousarray(levels.transpose(2, 0, 1))).float()[None] / 255
    lr = pad(lr, (0, PAD_PX, 0, PAD_PX), "reflect")
    height, width = lr.shape[2:]
    sr = lr.new_empty(1, 3, 4 * height, 4 * width)
    for top in range(0, height, TILE_OF_THEIRS_PX):
        for left in range(0, width, TILE_OF_THEIRS_PX):
            above, before = min(top, PAD_PX), min(left, PAD_PX)
            bottom, right = (min(start + TILE_OF_THEIRS_PX, side) for start, side in ((top, height), (left, width)))
            with torch.no_grad():
                part = generator(lr[..., top - above : bottom + PAD_PX, left - before : right + PAD_PX])
            kept = part[..., 4 * above : 4 * (above + bottom - top), 4 * before : 4 * (before + right - left)]
            sr[..., 4 * top : 4 * bottom, 4 * left : 4 * right] = kept
    sr = sr[0, :, : -4 * PAD_PX, : -4 * PAD_PX].clamp(0, 1)
    return cv2.imencode(".png", (sr.numpy().transpose(1, 2, 0)[..., ::-1] * 255).round().astype(np.uint8))[1].tobytes()


def post(url: str, body: bytes) -> bytes:
    """The answer to a JPEG. Raises HTTPError where that is a problem."""
    request = urllib.request.Request(f"{url}/upscale", body, {"Content-Type": "image/jpeg"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return bytes(answer.read())


def photograph(height: int, width: int) -> np.ndarray:
    """A real one, made this size: `uint8` RGB (height, width, 3)."""
    return cv2.resize(skimage.data.astronaut(), (width, height), interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
