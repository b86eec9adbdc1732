"""The endpoint at saturation for a long time, with photographs of many sizes; then one of its replicas is killed.

Clients post without a pause, more of them than the queue takes. Wanted: no answer but 200 and 503; memory of the
replica no higher in the last third than in the second, but for 10 %; after the kill only requests that ran then fail,
and none once they are posted again.

    python benchmarks/soak.py --minutes 30
"""

import dataclasses
import json
import os
import random
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import cv2
import skimage.data
import tyro

from srgan_ray.data import images
from srgan_ray.demo import free_port
from srgan_ray.on_ray.session import ray_session
from srgan_ray.serving.handler import ModelConfig
from srgan_ray.serving.protocol import Limits, ServeConfig

NUM_CLIENTS, MAX_WAITING = 10, 8
RETRY_S, NUM_TRIES = 1, 300
REPLICA = "ray::ServeReplica:srgan-ray:Upscaler"


@dataclasses.dataclass(frozen=True)
class SoakConfig:
    """The endpoint at saturation for a long time."""

    minutes: float = 30
    """Before the kill."""
    generator: str = "psnr"
    """Which generator is served."""
    max_side_px: int = 500
    """Of the photographs; sides are drawn from 1 up."""


class Clients:
    """Post photographs until told to end; count the answers, and the requests that failed in spite of all tries."""

    def __init__(self, url: str, max_side_px: int) -> None:
        self.answers: Counter[str] = Counter()
        self.num_given_up = 0
        self._url, self._max_side_px, self._ended, self._lock = url, max_side_px, threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(NUM_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let each finish its request."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, seed: int) -> None:
        dice = random.Random(seed)
        photograph = skimage.data.astronaut()
        while not self._ended.is_set():
            size = dice.randint(1, self._max_side_px), dice.randint(1, self._max_side_px)
            kind, wanted = dice.choice(["png", "jpeg", "webp"]), dice.choice(["png", "jpeg", "webp"])
            body = images.encode(cv2.resize(photograph, size, interpolation=cv2.INTER_AREA), kind)
            if not self._succeeds(body, kind, wanted):
                with self._lock:
                    self.num_given_up += 1

    def _succeeds(self, body: bytes, kind: str, wanted: str) -> bool:
        for _ in range(NUM_TRIES):
            answer = self._post(body, kind, wanted)
            with self._lock:
                self.answers[answer] += 1
            if answer == "200":
                return True
            time.sleep(RETRY_S)
        return False

    def _post(self, body: bytes, kind: str, wanted: str) -> str:
        request = urllib.request.Request(
            f"{self._url}/upscale?format={wanted}", body, {"Content-Type": f"image/{kind}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                answer.read()
                return str(answer.status)
        except urllib.error.HTTPError as error:
            return str(error.code)
        except OSError as error:
            return type(error).__name__


def main(config: SoakConfig) -> None:
    """Soak, kill, and print one JSON object."""
    limits = Limits(max_waiting=MAX_WAITING, time_limit_s=250)
    with ray_session():
        from srgan_ray.on_ray.app import endpoint

        with endpoint(ServeConfig(ModelConfig(config.generator), limits, port=free_port())) as url:
            clients = Clients(url, config.max_side_px)
            memory = _watch_memory(60 * config.minutes)
            soaked, given_up = dict(clients.answers), clients.num_given_up
            os.kill(_replica(), signal.SIGKILL)
            time.sleep(60)
            clients.end()
    second, last = memory[len(memory) // 3 : 2 * len(memory) // 3], memory[2 * len(memory) // 3 :]
    results = {
        "minutes": config.minutes,
        "answers": soaked,
        "given_up": given_up,
        "replica_mb": {"second_third": max(second), "last_third": max(last), "ratio": max(last) / max(second)},
        "after_the_kill": {
            "answers": {answer: num - soaked.get(answer, 0) for answer, num in clients.answers.items()},
            "given_up": clients.num_given_up - given_up,
        },
    }
    print(json.dumps(results))


def _watch_memory(seconds: float) -> list[float]:
    """The replica's resident megabytes, every other second."""
    memory, stop_at = [], time.monotonic() + seconds
    while time.monotonic() < stop_at:
        status = Path(f"/proc/{_replica()}/status").read_text()
        memory.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
        if len(memory) % 30 == 0:
            print(f"{len(memory) // 30} min: {memory[-1]:.0f} MB", file=sys.stderr)
        time.sleep(2)
    return memory


def _replica() -> int:
    """Its process."""
    names = {int(path.parent.name): path.read_text() for path in Path("/proc").glob("[0-9]*/cmdline")}
    [process] = [process for process, name in names.items() if name.startswith(REPLICA)]
    return process


if __name__ == "__main__":
    main(tyro.cli(SoakConfig))
