"""Each verb on several nodes, one of which is killed, cut off or added meanwhile: nothing is lost, nothing doubled."""

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fakes import make_shards, photograph
from nodes import Job, Nodes
from processes import wait_for
from small import SMALL_PRETRAIN, SMALL_SEARCH, SMALL_TRAIN, rows, steps
from srgan_ray.data import images
from srgan_ray.data.manifest import Request

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
PRETRAIN = [
    "jobs/pretrain.py", *SMALL_PRETRAIN, "--steps=1500", "--evaluate-every=100", "--checkpoint-every=50",
    "--num-workers=2",
]  # fmt: skip
RECOVERY_S = 60  # which a killed node may cost beside the time since the last checkpoint


def last_step(run: Path) -> int:
    return max(steps(run), default=0)


def check_run(run: Path, num_steps: int, every: int) -> None:
    assert steps(run) == list(range(every, num_steps + 1, every))


def test_prepare_survives_a_killed_node(nodes: Nodes, many_photographs: Path, storage: Path) -> None:
    job = nodes.submit("jobs/prepare.py", str(many_photographs), f"--out={storage}/shards")
    wait_for(lambda: len(list((storage / "shards").rglob("*.parquet"))) >= 4)
    nodes.kill(nodes.workers[0])
    assert job.under_way(), "it ended before the node was killed"
    summary = job.summary()
    expected = make_shards(storage / "expected", Request(str(many_photographs)))
    assert summary["data_hash"] == expected.data_hash
    assert sum(summary[split] for split in ("train", "val", "rejected")) == 160


def test_pretraining_goes_on_on_another_node(nodes: Nodes, shards: Path, storage: Path) -> None:
    job = nodes.submit(*PRETRAIN, f"--data={shards}", f"--out={storage}/run")
    wait_for(lambda: last_step(storage / "run"))
    nodes.kill(nodes.workers[0])
    killed_at, reached = time.monotonic(), last_step(storage / "run")
    assert job.under_way(), "it ended before the node was killed"
    nodes.add()
    wait_for(lambda: last_step(storage / "run") > reached)
    assert time.monotonic() - killed_at < RECOVERY_S
    assert job.summary()["num_workers"] == 2
    check_run(storage / "run", 1500, 100)


def test_adversarial_training_goes_on_with_fewer_and_with_more_workers(
    nodes: Nodes, shards: Path, generator_file: str, storage: Path
) -> None:
    plan = ["--steps=800", "--evaluate-every=20", "--checkpoint-every=20", "--num-workers=2", "--min-workers=1"]
    job = nodes.submit(
        "jobs/train.py", *SMALL_TRAIN, f"--data={shards}", f"--init={generator_file}", f"--out={storage}/run", *plan
    )

    def runs_with(num_workers: int) -> bool:
        return [row["num_workers"] for row in rows(storage / "run" / "metrics.jsonl")][-2:] == [num_workers] * 2

    wait_for(lambda: runs_with(2))
    nodes.kill(nodes.workers[1])
    killed_at = time.monotonic()
    wait_for(lambda: runs_with(1))
    assert time.monotonic() - killed_at < RECOVERY_S
    nodes.add()
    wait_for(lambda: runs_with(2))
    job.summary()
    check_run(storage / "run", 800, 20)


def test_a_search_goes_on_with_the_trials_of_a_killed_node(
    nodes: Nodes, shards: Path, generator_file: str, storage: Path
) -> None:
    job = nodes.submit(
        "jobs/tune.py", *SMALL_SEARCH, f"--data={shards}", f"--init={generator_file}", f"--out={storage}/search",
        "--steps=300", "--evaluate-every=20", "--checkpoint-every=20", "--trials=3", "--choose=0",
    )  # fmt: skip
    trials = storage / "search" / "trials"
    wait_for(lambda: all(last_step(trials / name) for name in ("00000", "00001")))
    nodes.kill(nodes.workers[0])
    assert job.under_way(), "it ended before the node was killed"
    nodes.add()
    assert job.summary()["trials"] == {"finished": 4}
    for number in range(4):
        check_run(trials / f"{number:05d}", 300, 20)


def test_a_folder_is_upscaled_whole_though_a_node_is_killed(nodes: Nodes, storage: Path) -> None:
    (storage / "in").mkdir()
    for number in range(40):
        (storage / "in" / f"{number}.png").write_bytes(images.encode(photograph(number, 60, 80), "png"))
    job = nodes.submit("jobs/upscale.py", f"{storage}/in", "--generator=psnr", f"--out={storage}/out")
    wait_for(lambda: len(list((storage / "out").glob("*.png"))) >= 3)
    nodes.kill(nodes.workers[0])
    assert job.under_way(), "it ended before the node was killed"
    assert job.summary()["upscaled"] == 40
    manifest = rows(storage / "out" / "manifest.jsonl")
    assert sorted(row["output"] for row in manifest) == sorted(map(str, (storage / "out").glob("*.png")))
    assert [row["status"] for row in manifest] == ["upscaled"] * 40


def test_a_cut_network_costs_a_run_nothing_but_time(nodes: Nodes, shards: Path, storage: Path) -> None:
    """A short cut is waited for; after a long one the node counts as lost, and another takes its place."""
    job = nodes.submit(*PRETRAIN, f"--data={shards}", f"--out={storage}/run")
    wait_for(lambda: last_step(storage / "run"))
    node = nodes.workers[0]
    nodes.cut(node)
    time.sleep(5)
    nodes.mend(node)
    reached = last_step(storage / "run")
    wait_for(lambda: last_step(storage / "run") > reached)
    assert len(nodes.alive()) == 3, "a short cut costs no node"

    nodes.cut(node)
    cut_at, reached = time.monotonic(), last_step(storage / "run")
    assert job.under_way(), "it ended before the node was cut off"
    nodes.add()
    wait_for(lambda: last_step(storage / "run") > reached)
    assert time.monotonic() - cut_at < RECOVERY_S
    nodes.mend(node)
    job.summary()
    check_run(storage / "run", 1500, 100)


@pytest.fixture
def endpoint(nodes: Nodes, generator_file: str) -> Iterator[tuple[Job, str]]:
    """The job of an endpoint with a replica on each node, and its URL."""
    job = nodes.submit(
        "jobs/serve.py", f"--generator={generator_file}", "--host=0.0.0.0", "--min-replicas=2", "--max-replicas=2"
    )
    wait_for(lambda: "serving on" in job.logs())
    yield job, f"http://{nodes.head.address}:8000"
    job.stop()


def test_an_endpoint_answers_while_a_node_is_killed(nodes: Nodes, endpoint: tuple[Job, str]) -> None:
    """What is asked again, as clients do after a 500 or a refused connection, is answered."""
    job, url = endpoint
    photo = images.encode(photograph(0, 24, 32), "png")
    over, retried, gave_up, answered = threading.Event(), [], [], []

    def ask() -> int:
        request = urllib.request.Request(f"{url}/upscale", data=photo, headers={"Content-Type": "image/png"})
        try:
            return urllib.request.urlopen(request, timeout=30).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def client() -> None:
        while not over.is_set():
            for _ in range(60):
                if (status := ask()) == 200:
                    answered.append(time.monotonic())
                    break
                retried.append(status)
                time.sleep(0.5)
            else:
                gave_up.append(status)

    clients = [threading.Thread(target=client) for _ in range(3)]
    for thread in clients:
        thread.start()
    wait_for(lambda: len(answered) > 20)
    nodes.kill(nodes.workers[0])
    nodes.add()
    time.sleep(20)
    over.set()
    for thread in clients:
        thread.join()
    assert not gave_up
    assert set(retried) <= {0, 500, 503}, retried
    assert max(np.diff(sorted(answered))) < 30
    assert job.under_way()
