"""The search folder, by path or URI: `search.json`, `trials.jsonl`, a run folder for each trial, and what came of it.

Written by the command itself, never by a trial, which fills its own run folder.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from srgan_ray.config import to_dict
from srgan_ray.data.manifest import REPORT, read_manifest, versions
from srgan_ray.data.storage import LOCK, Folder, below, split
from srgan_ray.errors import InputError
from srgan_ray.evaluation.metrics import as_json, from_json
from srgan_ray.models.artifact import FILE_NAME, find_generator, hash_generator, read_generator
from srgan_ray.search.config import TuneConfig
from srgan_ray.search.front import find_front, find_spread, gains
from srgan_ray.search.population import schedule_of
from srgan_ray.search.report import render_search_report
from srgan_ray.search.trials import Leg, Trial
from srgan_ray.training.folder import RunFolder, check_same

GENERATORS, WEIGHTS = ("init", "fidelity_generator"), ("vgg_weights", "niqe_model", "lpips_weights")
SEARCH, TRIALS, FRONT, RUNS = "search.json", "trials.jsonl", "front.json", "trials"
FREE_TO_CHANGE = {"data", "out", "trials", "concurrent", "choose"}
FIXED_IN_POPULATIONS = {"trials"}  # one that came later would have nobody to be compared with


class SearchFolder:
    """The files of a search. Making the object touches nothing."""

    def __init__(self, location: str) -> None:
        self._folder = Folder(location)
        self.generator_file = below(self._folder.location, FILE_NAME)

    def check(self, config: TuneConfig) -> None:
        """Raise InputError where the folder holds something else than a search of this config."""
        if not self._folder.has(SEARCH):
            if {name.split("/")[0] for name in self._folder.names()} - {LOCK}:
                raise InputError(
                    f"--out {self._folder} is not empty and holds no search; wanted a new one, or a search's"
                )
            return
        recorded = self._origin()
        now = json.loads(json.dumps(_describe(config)))  # tuples as the lists that were read
        free = FREE_TO_CHANGE - FIXED_IN_POPULATIONS if config.population else FREE_TO_CHANGE
        check_same(f"--out {self._folder} holds a search", recorded, now, free)
        for name, digest in now["files"].items():
            if (before := recorded["files"].get(name, digest)) != digest:
                raise InputError(
                    f"--{name.replace('_', '-')}: --out {self._folder} holds a search with the file {before}, now "
                    f"{digest}; wanted the same file, or another --out"
                )

    def _origin(self) -> dict[str, Any]:
        """What was searched. Raises InputError where the file does not tell."""
        try:
            origin: dict[str, Any] = json.loads(self._folder.read(SEARCH))
            if not isinstance(origin, dict) or not isinstance(origin.get("files"), dict):
                raise ValueError("no files")
        except ValueError as error:
            raise InputError(
                f"--out {self._folder}: {SEARCH} is damaged, or of another version; wanted another --out"
            ) from error
        return origin

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep other commands of this machine out of the folder. InputError where one is at work in it."""
        return self._folder.locked()

    def run_of(self, trial: Trial) -> str:
        """Where the trial's run folder is."""
        return below(self._folder.location, f"{RUNS}/{trial.number:05d}")

    def begin(self, config: TuneConfig) -> None:
        """Write down what is searched."""
        self._folder.write(SEARCH, (json.dumps(_describe(config), indent=2) + "\n").encode())

    def trials(self) -> list[Trial]:
        """The trials by their number."""
        if not self._folder.has(TRIALS):
            return []
        return [from_row(json.loads(line)) for line in self._folder.read(TRIALS).splitlines()]

    def write_trials(self, trials: Iterable[Trial]) -> None:
        """Replace the rows."""
        self._folder.write(TRIALS, "".join(json.dumps(_to_row(trial)) + "\n" for trial in trials).encode())

    def take_over(self, trial: Trial, source: Trial) -> None:
        """Put what another trial's run folder holds into this one's."""
        RunFolder(self.run_of(trial)).take_over(RunFolder(self.run_of(source)))

    def finish(self, config: TuneConfig, trials: Sequence[Trial], chosen: Trial | None) -> None:
        """Write the front, the report, and the chosen trial's generator."""
        front, spread = find_front(trials), find_spread(trials)
        described = {
            "chosen": chosen.number if chosen else None,
            "front": [
                {
                    **_to_row(trial),
                    "gain_over_baseline": gains(trial, trials),
                    "schedule": [stretch._asdict() for stretch in schedule_of(trial, trials)],
                }
                for trial in front
            ],
            "spread_of_baselines": spread,
        }
        self._folder.write(FRONT, (json.dumps(described, indent=2) + "\n").encode())
        origin = self._origin()
        samples = {trial.number: RunFolder(self.run_of(trial)).best_samples() for trial in self._shown(trials, front)}
        page = render_search_report(config, origin, trials, chosen, samples)
        self._folder.write(REPORT, page.encode())
        if chosen:
            folder, name = split(RunFolder(self.run_of(chosen)).generator_file)
            self._folder.write(FILE_NAME, folder.read(name))

    def summary(self, trials: Sequence[Trial], chosen: Trial | None) -> dict[str, Any]:
        """What a command says at its end."""
        summary: dict[str, Any] = {
            "search": str(self._folder),
            "trials": dict(Counter(trial.status for trial in trials)),
            "front": [trial.number for trial in find_front(trials)],
        }
        if chosen:
            summary |= {
                "chosen": chosen.number,
                "settings": chosen.settings,
                **{name: round(figure.value, 4) for name, figure in chosen.figures.items()},
                "generator": self.generator_file,
            }
        return {**summary, "report": below(self._folder.location, REPORT)}

    def _shown(self, trials: Sequence[Trial], front: Sequence[Trial]) -> list[Trial]:
        first = [trial for trial in trials if trial.is_baseline and trial.figures][:1]
        return [*first, *(trial for trial in front if trial not in first)]


def _describe(config: TuneConfig) -> dict[str, Any]:
    settings = {**to_dict(config.training), **config.own_settings}
    data_hash = read_manifest(config.data).data_hash
    return {"config": settings, "data_hash": data_hash, "files": _hash_files(config), "versions": versions()}


def _hash_files(config: TuneConfig) -> dict[str, str]:
    """Of the generators and weights that settings name files of, by the setting."""
    generators = {name: given for name in GENERATORS if (given := getattr(config, name))}
    weights = {name: Path(given) for name in WEIGHTS if Path(given := getattr(config, name)).is_file()}
    return {
        **{name: hash_generator(read_generator(find_generator(given))) for name, given in generators.items()},
        **{name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in weights.items()},
    }


def _to_row(trial: Trial) -> dict[str, Any]:
    return {**dataclasses.asdict(trial), "figures": as_json(trial.figures)}


def from_row(row: dict[str, Any]) -> Trial:
    """A trial as its row in `trials.jsonl` has it."""
    legs = tuple(Leg(**leg) for leg in row.get("legs", ()))  # which rows of before there were populations have not
    return Trial(**{**row, "figures": from_json(row["figures"]), "legs": legs})
