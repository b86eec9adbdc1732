"""Arguments that make the verbs' work small, and what it leaves behind."""

import json
from pathlib import Path

SMALL = ["--batch-size=2", "--crop-px=48", "--max-val-photographs=1"]
SMALL_PRETRAIN = [*SMALL, "--generator.num-blocks=1", "--generator.num-features=8"]
SMALL_TRAIN = [*SMALL, "--vgg-weights=random", "--discriminator.num-features=4", "--discriminator.num-units=16"]
SMALL_SEARCH = [*SMALL_TRAIN, "--baseline-seeds=1", "--sampler=random", "--space=learning_rate=log:1e-6:1e-4"]
FOUR_STEPS = ["--steps=4", "--evaluate-every=2", "--checkpoint-every=2"]


def rows(file: Path) -> list[dict]:
    """Of a file of JSON lines; none where there is no file yet."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def steps(run: Path) -> list[int]:
    """Of the validations of a run, in their order."""
    return [row["step"] for row in rows(run / "metrics.jsonl")]
