"""What the README and the cluster's pages say is what there is."""

import re
import shlex
from pathlib import Path

import pytest

from srgan_ray import cli
from srgan_ray.config import PretrainConfig, TrainConfig
from srgan_ray.data.manifest import PrepareConfig
from srgan_ray.demo import DemoConfig
from srgan_ray.evaluation.benchmark import EvaluateConfig
from srgan_ray.evaluation.gate import PromoteConfig, RollbackConfig
from srgan_ray.search.config import TuneConfig
from srgan_ray.serving.files import UpscaleConfig
from srgan_ray.serving.protocol import ServeConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CLUSTER = "\n".join(page.read_text() for page in sorted((ROOT / "cluster").rglob("*.md")))
CONFIGS = {
    "prepare": PrepareConfig, "pretrain": PretrainConfig, "train": TrainConfig, "tune": TuneConfig,
    "promote": PromoteConfig, "rollback": RollbackConfig, "evaluate": EvaluateConfig,
    "upscale": UpscaleConfig, "serve": ServeConfig, "demo": DemoConfig,
}  # fmt: skip


def commands() -> list[tuple[str, str]]:
    """Every verb with its arguments, as written in the code blocks."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README + CLUSTER, re.S)).replace("\\\n", " ")
    found = re.findall(r"(?<!-n )\bsrgan-ray (\w+) (.*)|jobs/(\w+)\.py (.*)", blocks)
    return [(verb or job, arguments or rest) for verb, arguments, job, rest in found]


def test_there_are_commands_to_check() -> None:
    assert {verb for verb, _ in commands()} >= {"prepare", "pretrain", "train", "evaluate", "upscale", "serve"}
    assert set(CONFIGS) == set(cli.VERBS)


@pytest.mark.parametrize(("verb", "arguments"), commands())
def test_commands_parse(verb: str, arguments: str) -> None:
    cli.parse(CONFIGS[verb], shlex.split(arguments), verb)


def test_every_verb_and_every_file_is_named() -> None:
    assert all(f"| `{verb}" in README for verb in cli.VERBS)
    house = re.sub(r"\n {18}", " ", README.split("## The house")[1])
    for path in (ROOT / "srgan_ray").rglob("*.py"):
        if not path.name.startswith("__"):
            assert path.stem in house, path
    for line in re.findall(r"^  (?!weights)(\w+)/ +(.*)$", house, re.M):
        files = {name.strip().split(" ")[0] for name in line[1].split("·")}
        assert files == {path.stem for path in (ROOT / "srgan_ray" / line[0]).glob("[!_]*.py")}, line


@pytest.mark.parametrize("target", ["setup", "demo", "test", "check"])
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_flags_of_the_contract(capsys) -> None:
    contract = {
        "prepare": "--out --limit --seed --degradations",
        "pretrain": "--data --out --steps --evaluate-every --batch-size --num-workers --degradation",
        "train": "--data --out --steps --evaluate-every --batch-size --num-workers --degradation --init",
        "tune": "--data --init --out --trials --concurrent",
        "promote": "--to",
        "evaluate": "--generator --hr --lr --degradation --json --pictures",
        "upscale": "--out --generator --fidelity --format",
        "serve": "--generator --host --port",
        "demo": "--out",
    }
    for verb, flags in contract.items():
        with pytest.raises(SystemExit):
            cli.parse(CONFIGS[verb], ["--help"], verb)
        known = capsys.readouterr().out
        assert all(f"{flag} " in known for flag in flags.split()), verb
