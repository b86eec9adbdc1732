"""What the endpoint tells of its work, to whoever watches it."""

import dataclasses
from typing import NamedTuple


class Work(NamedTuple):
    """What a picture took."""

    num_tiles: int
    decode_s: float
    model_s: float
    """From the first tile's waiting to the last one's end."""
    encode_s: float


@dataclasses.dataclass
class Record:
    """A request for a photograph at four times its size, as far as it came."""

    status: int = 200
    detail: str = ""
    """Why there is no image."""
    format: str = ""
    fidelity: float | None = None
    megapixels: float = 0
    """Of the photograph that was sent; 0 where it was refused before its header was read."""
    seconds: float = 0
    """From the request's arrival to its answer."""
    work: Work | None = None
    """Where there is an image."""


class Watch:
    """Hears of the endpoint's work and does nothing about it."""

    def answered(self, record: Record) -> None:
        """A request has its answer, or its client has left."""

    def queued(self, num_requests: int) -> None:
        """So many requests are inside now."""

    def ran(self, num_tiles: int, seconds: float) -> None:
        """The generator ran on a batch of tiles."""

    def swapped(self, detail: str) -> None:
        """Another generator is served from now on."""

    def failed(self, detail: str) -> None:
        """Something went wrong that no client hears of."""
