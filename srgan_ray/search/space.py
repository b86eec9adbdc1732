"""The space of a search: settings of `train` by their dotted paths, each with a range."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from srgan_ray.config import TrainConfig, flatten, to_dict, with_settings
from srgan_ray.errors import InputError

Space = dict[str, BaseDistribution]
LOG, UNIFORM, CHOICE = KINDS = ("log", "uniform", "choice")
MOST_CHECKED = 1000  # values of a range of integers: 40 ms
BOOLEANS = {"true": True, "false": False}
# What decides where a trial lies, how long it is, and by which protocol it is measured: trials could not be compared.
NOT_SEARCHED = {
    "stage",
    "data",
    "out",
    "num_workers",
    "min_workers",
    "crops.seed",
    "crops.degradation",
    "loop.steps",
    "loop.max_val_photographs",
    "content_blocks",  # of more blocks the content loss, by which trials are stopped early, is a larger sum
    "vgg_weights",
}


def parse_space(given: Sequence[str], base: TrainConfig) -> Space:
    """The ranges by their paths. Raises InputError, naming --space, for what is not one, or does not fit `base`."""
    space: Space = {}
    for path, text in (pair for word in given for pair in _split(word)):
        if path in space:
            raise InputError(f"--space has {path} twice; wanted it once")
        space[path] = _parse_range(path, text, base)
    if not space:
        raise InputError("--space is empty; wanted at least one PATH=RANGE")
    return space


def values_to_check(distribution: BaseDistribution) -> Iterable[Any]:
    """Every choice, the lowest and the highest number, and up to MOST_CHECKED integers: mostly all."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        step = (distribution.high - distribution.low) // MOST_CHECKED | 1  # odd: some that are no multiple of 4 too
        return [*range(distribution.low, distribution.high, step), distribution.high]
    return [distribution.low, distribution.high]  # type: ignore[attr-defined]


def _split(word: str) -> list[tuple[str, str]]:
    path, mark, text = word.partition("=")
    if mark:
        return [(path, text)]
    try:
        pairs = json.loads(Path(word).read_bytes())
        return [(str(path), str(text)) for path, text in pairs.items()]
    except OSError as error:
        raise InputError(f"--space {word}: {error.strerror}; wanted PATH=RANGE, or a JSON file of them") from error
    except (ValueError, AttributeError) as error:
        raise InputError(f"--space {word} is no JSON file of paths and ranges: {error}") from error


def _parse_range(path: str, text: str, base: TrainConfig) -> BaseDistribution:
    settings = flatten(to_dict(base))
    searchable = [name for name in settings if name not in NOT_SEARCHED]
    if path not in searchable:
        raise InputError(f"--space {path}: no setting to search in; wanted one of {', '.join(searchable)}")
    kind, _, values = text.partition(":")
    read = _reader(settings[path])
    try:
        distribution = _make(kind, values, read)
        for value in values_to_check(distribution):
            with_settings(base, {path: value})
    except (ValueError, InputError) as error:
        raise InputError(
            f"--space {path}={text}: {error}; wanted log:LOW:HIGH, uniform:LOW:HIGH or choice:A,B,C"
        ) from error
    return distribution


def _reader(now: Any) -> Callable[[str], Any]:
    """What makes a value of a text, by the value that there is now."""
    if isinstance(now, bool):
        return _read_bool
    return float if now is None else type(now)


def _read_bool(text: str) -> bool:
    if text.lower() not in BOOLEANS:
        raise ValueError(f"{text} is none of {', '.join(BOOLEANS)}")
    return BOOLEANS[text.lower()]


def _make(kind: str, values: str, read: Any) -> BaseDistribution:
    """Raises ValueError for a range that is none."""
    if kind == CHOICE:
        choices = [read(value) for value in values.split(",")]
        if len(set(choices)) < 2:
            raise ValueError("fewer than two choices")
        return CategoricalDistribution(choices)
    if kind not in KINDS or read not in (int, float):
        raise ValueError("no such range")
    low, high = map(read, values.split(":"))
    if not low < high:
        raise ValueError(f"{low} is not below {high}")
    return (FloatDistribution if read is float else IntDistribution)(low, high, log=kind == LOG)
