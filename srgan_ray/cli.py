"""The verbs. Each parses its arguments, checks them, and calls one function; heavy imports wait until then.

The last line on standard output is one JSON object. What the user got wrong ends with one line and exit code 2.
"""

import contextlib
import io
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from srgan_ray.errors import InputError

T = TypeVar("T")
Summary = dict[str, Any]
USAGE_ERROR, INTERRUPTED = 2, 130


def main(argv: list[str] | None = None) -> None:
    """Run `srgan-ray VERB …` and exit."""
    verb, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    signal.signal(signal.SIGTERM, _interrupt)  # what `ray job stop` sends
    try:
        if verb in ("-h", "--help"):
            print(_help())
        elif verb in VERBS:
            print(_to_json(VERBS[verb](arguments)))
        else:
            raise InputError(f"no verb {verb}; wanted one of {', '.join(VERBS)}")
    except InputError as error:
        print(f"srgan-ray {verb}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    except KeyboardInterrupt:
        print(f"srgan-ray {verb}: stopped; the same command goes on from what is finished", file=sys.stderr)
        sys.exit(INTERRUPTED)


def prepare(argv: list[str]) -> Summary:
    """Photographs to LR/HR shards."""
    from srgan_ray.data.manifest import PrepareConfig, delete_parts, find_finished, has_parts, summarize
    from srgan_ray.data.sources import list_photographs
    from srgan_ray.data.storage import Folder
    from srgan_ray.on_ray.session import ray_session

    config = parse(PrepareConfig, argv, "prepare")
    folder, request = Folder(config.out), config.request
    manifest = find_finished(config)  # without a lock, which leaves a file: the folder may be of something else
    if not manifest:
        photographs = list_photographs(
            request.source, request.limit, request.seed, config.cache, config.mirror, config.out
        )
        with folder.locked():
            manifest = find_finished(config)  # by another command meanwhile
            if not manifest:
                with ray_session():
                    from srgan_ray.on_ray import ingest

                    return ingest.prepare(photographs, request, folder)
    print(f"{folder} holds this shard set already; nothing to do", file=sys.stderr)
    if has_parts(folder):
        with folder.locked():
            delete_parts(folder)  # of a prepare that was killed at its very end
    return summarize(folder, manifest)


def pretrain(argv: list[str]) -> Summary:
    """Shards to a generator: SRResNet, mean squared error."""
    from srgan_ray.config import PretrainConfig

    return _fit(parse(PretrainConfig, argv, "pretrain"))


def train(argv: list[str]) -> Summary:
    """A pretrained generator to a perceptual one: SRGAN."""
    from srgan_ray.config import TrainConfig

    return _fit(parse(TrainConfig, argv, "train"))


def tune(argv: list[str]) -> Summary:
    """Trainings with other settings, and the best of them: perception against distortion."""
    from srgan_ray.models.memory import WORKER_ENVIRONMENT
    from srgan_ray.on_ray.session import ray_session
    from srgan_ray.search.config import TuneConfig
    from srgan_ray.search.search import Search

    search = Search(parse(TuneConfig, argv, "tune"))
    with search.opened():
        with ray_session(WORKER_ENVIRONMENT):
            from srgan_ray.on_ray import tuner

            trials = tuner.search(search.config, search.space)
        return search.finish(trials)


def promote(argv: list[str]) -> Summary:
    """A generator through the gate: measured, and made the current one of a registry."""
    from srgan_ray.evaluation.gate import PromoteConfig
    from srgan_ray.evaluation.gate import promote as pass_gate

    return pass_gate(parse(PromoteConfig, argv, "promote"))


def rollback(argv: list[str]) -> Summary:
    """An earlier generator of a registry made the current one again."""
    from srgan_ray.evaluation.gate import RollbackConfig, roll_back

    return roll_back(parse(RollbackConfig, argv, "rollback"))


def evaluate(argv: list[str]) -> Summary:
    """A generator beside bicubic interpolation: figures and pictures."""
    from srgan_ray.evaluation.benchmark import EvaluateConfig
    from srgan_ray.evaluation.benchmark import evaluate as run_evaluation

    return run_evaluation(parse(EvaluateConfig, argv, "evaluate"))


def upscale(argv: list[str]) -> Summary:
    """Image files at four times their size."""
    from srgan_ray.on_ray.session import ray_session
    from srgan_ray.serving.files import UpscaleConfig
    from srgan_ray.serving.worklist import carry_out, open_worklist, upscale_here

    with open_worklist(parse(UpscaleConfig, argv, "upscale")) as worklist:
        if not worklist.needs_ray:
            return carry_out(worklist, upscale_here(worklist))
        with ray_session():
            from srgan_ray.on_ray import upscaling

            return carry_out(worklist, upscaling.upscale(worklist))


def serve(argv: list[str]) -> Summary:
    """The upscaling endpoint, until Ctrl-C."""
    from srgan_ray.on_ray.session import ray_session
    from srgan_ray.serving.handler import Handler
    from srgan_ray.serving.protocol import ServeConfig

    config = parse(ServeConfig, argv, "serve").resolved()
    url = f"http://{config.host}:{config.port}"  # of a Serve that runs already another one
    Handler(config.model)  # a bad generator file is refused here, not in a replica
    with ray_session():
        from srgan_ray.on_ray.app import endpoint
        from srgan_ray.on_ray.cluster import metrics_url

        with contextlib.suppress(KeyboardInterrupt), endpoint(config) as url:
            places = f"its interface described at {url}/docs, its metrics at {metrics_url()}"
            print(f"serving on {url}, {places}; Ctrl-C stops", file=sys.stderr)
            signal.pause()
    return {"served": url}


def demo(argv: list[str]) -> Summary:
    """Prepare, both trainings, evaluate and the endpoint, once, on photographs that are at hand, in a few minutes."""
    from srgan_ray.demo import DemoConfig, run_demo

    return run_demo(parse(DemoConfig, argv, "demo"))


VERBS: dict[str, Callable[[list[str]], Summary]] = {
    verb.__name__: verb for verb in (prepare, pretrain, train, tune, evaluate, promote, rollback, upscale, serve, demo)
}


def parse(config_type: Callable[..., T], argv: list[str], verb: str) -> T:
    """The verb's arguments as its dataclass. Raises InputError, in one line, for wrong ones."""
    import tyro

    box = io.StringIO()
    os.environ.setdefault("COLUMNS", "120")
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(config_type, prog=f"srgan-ray {verb}", args=argv, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if stop.code != USAGE_ERROR:
            raise
        raise InputError(_first_message(box.getvalue())) from None


def _fit(config: Any) -> Summary:
    from srgan_ray.on_ray.session import ray_session
    from srgan_ray.training.run import check_run, with_absolute_paths

    config = with_absolute_paths(config)
    check_run(config)
    with ray_session():
        from srgan_ray.on_ray import trainer

        return trainer.fit(config)


def _to_json(summary: Summary) -> str:
    """With null for the numbers that are not finite, which JSON does not know."""
    return json.dumps(json.loads(json.dumps(summary), parse_constant=lambda _: None))


def _first_message(box: str) -> str:
    """The first paragraph inside the frame that tyro draws round its errors."""
    lines = [re.sub(r"[│╭╮╰╯]|─{3,}", "", line).strip() for line in box.splitlines()[1:]]
    message = re.sub(r"^Error parsing \w+Config: ", "", " ".join(itertools.takewhile(bool, lines)))
    return f"{message} (see --help)"


def _help() -> str:
    verbs = "\n".join(f"  {name:<10}{verb.__doc__}" for name, verb in VERBS.items())
    return f"usage: srgan-ray VERB …\n\n{verbs}\n\nsrgan-ray VERB --help lists the arguments of a verb."


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
