"""Checkpoint folders: `state.pt`, and `checkpoint.json`, which is written last and makes the checkpoint valid."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

STATE, SEAL = "state.pt", "checkpoint.json"
NUM_KEPT = 2


def write_checkpoint(folder: Path, state: dict[str, Any], config: dict[str, Any]) -> None:
    """Write a checkpoint into `folder` (made if need be)."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / STATE)
    seal = {
        "schema_version": state["schema_version"],
        "step": state["step"],
        "sha256": _hash_file(folder / STATE),
        "config": config,
    }
    (folder / SEAL).write_text(json.dumps(seal, indent=2))


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The state of a checkpoint, on the CPU. Raises ValueError where it is not whole."""
    if not (folder / SEAL).is_file():
        raise ValueError(f"{folder} holds no {SEAL}: the checkpoint was not finished")
    if json.loads((folder / SEAL).read_text())["sha256"] != _hash_file(folder / STATE):
        raise ValueError(f"{folder / STATE} is not the file that was written: remove {folder} to go on from another")
    return torch.load(folder / STATE, map_location="cpu", weights_only=True)


def checkpoint_name(step: int) -> str:
    """The folder's name; names sort by step."""
    return f"step_{step:08d}"


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
