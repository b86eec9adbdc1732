"""The endpoint's work as Prometheus metrics, which Ray exports, and as lines of Serve's log."""

import dataclasses
import logging

from ray.serve.metrics import Counter, Gauge, Histogram

from srgan_ray.serving.watch import Record, Watch

SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100]
TILES: list[float] = [1, 2, 4, 8, 16, 32]
_log = logging.getLogger("ray.serve")  # whose lines carry the request's id and the replica


class ServeWatch(Watch):
    """Counts and logs in the replica it is made in; Ray adds the replica's name to each metric."""

    def __init__(self) -> None:
        self._requests = Counter("srgan_requests", "Requests by the status of their answer", ("status",))
        self._megapixels = Counter("srgan_megapixels", "Megapixels of the photographs that were upscaled")
        self._inside = Gauge("srgan_requests_inside", "Requests that wait or run")
        self._seconds = Histogram(
            "srgan_seconds", "Seconds of an upscaled photograph, by what they went to", SECONDS, ("part",)
        )
        self._batch_seconds = Histogram("srgan_batch_seconds", "Seconds of the generator on a batch", SECONDS)
        self._batch_tiles = Histogram("srgan_batch_tiles", "Tiles in a batch", TILES)
        self._swaps = Counter("srgan_swaps", "Generators that were swapped in")

    def answered(self, record: Record) -> None:
        self._requests.inc(tags={"status": str(record.status)})
        fields = {name: value for name, value in dataclasses.asdict(record).items() if name != "work"}
        if record.work:
            self._megapixels.inc(record.megapixels)
            parts = {"decode": record.work.decode_s, "model": record.work.model_s, "encode": record.work.encode_s}
            for part, seconds in {**parts, "total": record.seconds}.items():
                self._seconds.observe(seconds, {"part": part})
            fields |= record.work._asdict()
        _log.info("upscale", extra=fields)

    def queued(self, num_requests: int) -> None:
        self._inside.set(num_requests)

    def ran(self, num_tiles: int, seconds: float) -> None:
        self._batch_tiles.observe(num_tiles)
        self._batch_seconds.observe(seconds)

    def swapped(self, detail: str) -> None:
        self._swaps.inc()
        _log.info("another generator is served", extra={"detail": detail})

    def failed(self, detail: str) -> None:
        _log.error("a generator was not taken", extra={"detail": detail})
