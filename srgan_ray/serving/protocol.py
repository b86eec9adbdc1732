"""What the endpoint promises: its limits, its problems (RFC 9457), and the parameters it reads."""

import dataclasses
import http
import math
from typing import Annotated, Any, ClassVar, Self

import tyro

from srgan_ray.data.storage import absolute
from srgan_ray.errors import InputError
from srgan_ray.models.registry import open_registry
from srgan_ray.serving.handler import ModelConfig

PROBLEM_TYPE = "application/problem+json"
MEGA = 1_000_000
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may cost."""

    max_mb: float = 25
    """Megabytes in a body; above it, 413."""
    max_megapixels: float = 4
    """Megapixels of the photograph, told by its header before it is decoded; above it, 413."""
    max_megapixels_at_once: float = 8
    """Megapixels decoded at a time; other requests wait for them. 0.15 to 0.5 GB each with its result, by depth."""
    max_waiting: int = 16
    """Requests that wait or run in a replica; above it, 503."""
    receive_limit_s: float = 60
    """Seconds for a body to arrive; above it, 408."""
    time_limit_s: float = 120
    """Seconds from the whole body to the answer; above it, 504."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not 0 < getattr(self, field.name) < math.inf:
                found = f"--{field.name.replace('_', '-')} {getattr(self, field.name)}"
                raise InputError(f"{found}; wanted more than 0, and a limit")
        if self.max_megapixels_at_once < self.max_megapixels:
            raise InputError(
                f"--max-megapixels-at-once {self.max_megapixels_at_once:g}; wanted at least --max-megapixels, "
                f"{self.max_megapixels:g}: else the largest photograph never has its turn"
            )


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How many replicas of the generator there are, by how many requests they have."""

    min_replicas: int = 1
    """Replicas that always run; 0 starts the first one at the first request, which waits for it."""
    max_replicas: int = 1
    """Replicas that run at most."""
    num_cpus: int = 0
    """CPUs of a replica; 0 shares out all that there are to --max-replicas, at most a whole node to one."""
    num_gpus: int | None = None
    """GPUs of a replica; None: one where the largest node has any."""
    scale_up_after_s: float = 5
    """Seconds that the replicas must have had too many requests before there are more of them."""
    scale_down_after_s: float = 300
    """Seconds that they must have had too few before there are fewer."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas:
            raise InputError(f"--min-replicas {self.min_replicas}; wanted 0 to --max-replicas, {self.max_replicas}")
        if self.max_replicas < 1:
            raise InputError(f"--max-replicas {self.max_replicas}; wanted 1 or more")
        for name in ("num_cpus", "num_gpus", "scale_up_after_s", "scale_down_after_s"):
            if not (getattr(self, name) or 0) >= 0:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}; wanted 0 or more")


@dataclasses.dataclass(frozen=True)
class EndpointConfig:
    """What is served, within which limits, by how many replicas."""

    # read from a file, a key that is no field is an error, in the parts too
    __pydantic_config__: ClassVar = {"extra": "forbid"}

    model: Annotated[ModelConfig, tyro.conf.arg(name="")] = ModelConfig()
    limits: Annotated[Limits, tyro.conf.arg(name="")] = Limits()
    scaling: Annotated[Scaling, tyro.conf.arg(name="")] = Scaling()
    registry: str = ""
    """Registry to serve from, in place of --generator: what is current in it, also when that changes."""

    def __post_init__(self) -> None:
        if self.registry and self.model.generator != ModelConfig().generator:
            raise InputError(f"--registry {self.registry} and --generator {self.model.generator}; wanted one of them")

    def resolved(self) -> Self:
        """With the registry as what the generator is taken from. Raises InputError where there is none."""
        if not self.registry:
            return self
        open_registry(self.registry, "--registry")
        model = dataclasses.replace(self.model, generator=absolute(self.registry))
        return dataclasses.replace(self, model=model, registry="")


@dataclasses.dataclass(frozen=True)
class ServeConfig(EndpointConfig):
    """The upscaling endpoint, until Ctrl-C."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = 8000
    """Port to listen on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.port < 65536:
            raise InputError(f"--port {self.port}; wanted 1 to 65535")


class Problem(Exception):
    """An answer that is no image: `status` with a sentence that says what was found and what is wanted."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}

    def as_json(self) -> dict[str, Any]:
        """The members of an `application/problem+json` body."""
        title = http.HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail}
