"""`srgan-ray upscale`: image files to upscaled files, and a manifest of what was done."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from srgan_ray.data.images import UnreadableImage
from srgan_ray.errors import InputError
from srgan_ray.serving.handler import Handler, ModelConfig
from srgan_ray.serving.picture import TooLargeForFormat

MANIFEST = "manifest.jsonl"


@dataclasses.dataclass(frozen=True)
class UpscaleConfig:
    """Image files at four times their size."""

    input: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="INPUT")]
    """Image files, and folders whose files are taken, nested ones too."""
    out: str
    """Folder for the results, which keep their names, and for manifest.jsonl."""
    model: Annotated[ModelConfig, tyro.conf.arg(name="")] = ModelConfig()
    fidelity: float | None = None
    """From 0 (as --generator) to 1 (as --fidelity-generator)."""
    format: Literal["png", "jpeg", "webp"] = "png"
    """Of the results."""

    def __post_init__(self) -> None:
        if not self.input:
            raise InputError("INPUT is missing; wanted one or more image files or folders")
        if self.fidelity is not None and not 0 <= self.fidelity <= 1:
            raise InputError(f"--fidelity {self.fidelity}; wanted 0 to 1")
        if self.fidelity is not None and not self.model.fidelity_generator:
            raise InputError(f"--fidelity {self.fidelity}; wanted --fidelity-generator beside it, to blend with")


def upscale_files(config: UpscaleConfig) -> dict[str, Any]:
    """Upscale every input. A bad file does not stop the others: at the end InputError names the first of them."""
    handler = Handler(config.model)
    targets = find_targets(config)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    with open(out / MANIFEST, "w") as manifest:
        for source, target in tqdm(targets.items(), unit=" images", disable=None, file=sys.stderr):
            try:
                result = handler.upscale(source.read_bytes(), config.format, config.fidelity)
            except (UnreadableImage, TooLargeForFormat, OSError) as error:
                failures.append(f"{source}: {error}")
                manifest.write(json.dumps({"input": str(source), "error": str(error)}) + "\n")
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(result.encoded)
            row = {key: value for key, value in result._asdict().items() if key != "encoded"}
            manifest.write(json.dumps({"input": str(source), "output": str(target), **row}) + "\n")
    if failures:
        raise InputError(f"INPUT {failures[0]} ({len(failures)} of {len(targets)} failed, the others are in {out})")
    return {"out": str(out), "upscaled": len(targets), "manifest": str(out / MANIFEST), "generator": handler.card.name}


def find_targets(config: UpscaleConfig) -> dict[Path, Path]:
    """Each input file and where its result goes. Raises InputError for a missing one, or for two with one target."""
    targets: dict[Path, Path] = {}
    for given in map(Path, config.input):
        if not given.exists():
            raise InputError(f"INPUT {given} does not exist; wanted an image file or a folder")
        files = sorted(path for path in given.rglob("*") if path.is_file()) if given.is_dir() else [given]
        if not files:
            raise InputError(f"INPUT {given} is an empty folder; wanted images in it")
        root = given if given.is_dir() else given.parent
        targets |= {file: Path(config.out) / file.relative_to(root).with_suffix(f".{config.format}") for file in files}
    first: dict[Path, Path] = {}
    for file, target in targets.items():
        if other := first.setdefault(target, file):
            if other != file:
                raise InputError(f"INPUT {other} and {file} would both become {target}; wanted unlike names")
            if target.resolve() == file.resolve():
                raise InputError(f"--out {config.out}: {file} would be overwritten; wanted another folder")
    return targets
