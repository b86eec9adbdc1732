"""What the endpoint promises: its limits, its problems (RFC 9457), and the parameters it reads."""

import dataclasses
import http
from typing import Annotated, Any

import tyro

from srgan_ray.errors import InputError
from srgan_ray.serving.handler import ModelConfig

PROBLEM_TYPE = "application/problem+json"
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may cost."""

    max_mb: float = 25
    """Megabytes in a body; above it, 413."""
    max_megapixels: float = 4
    """Megapixels of the photograph, told by its header before it is decoded; above it, 413."""
    max_waiting: int = 16
    """Requests that wait or run; above it, 503."""
    time_limit_s: float = 120
    """Seconds from the whole body to the answer; above it, 504."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise InputError(f"--{field.name.replace('_', '-')} {getattr(self, field.name)}; wanted more than 0")


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """The upscaling endpoint, until Ctrl-C."""

    model: Annotated[ModelConfig, tyro.conf.arg(name="")] = ModelConfig()
    limits: Annotated[Limits, tyro.conf.arg(name="")] = Limits()
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = 8000
    """Port to listen on."""
    num_cpus: int = 0
    """CPUs for the generator; 0 takes all of the largest node."""

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise InputError(f"--port {self.port}; wanted 1 to 65535")
        if self.num_cpus < 0:
            raise InputError(f"--num-cpus {self.num_cpus}; wanted 0 or more")


class Problem(Exception):
    """An answer that is no image: `status` with a sentence that says what was found and what is wanted."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}

    def as_json(self) -> dict[str, Any]:
        """The members of an `application/problem+json` body."""
        title = http.HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail}
