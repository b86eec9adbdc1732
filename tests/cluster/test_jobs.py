"""Every verb that a cluster runs, submitted as a job to a cluster with its job server, as a user submits it."""

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fakes import make_shards, photograph
from nodes import ROOT, Nodes
from processes import wait_for
from small import FOUR_STEPS, SMALL_PRETRAIN, SMALL_SEARCH, SMALL_TRAIN, rows, steps
from srgan_ray.data import images
from srgan_ray.data.manifest import Request
from srgan_ray.demo import free_port
from srgan_ray.models.artifact import load_generator

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SEARCH = [*SMALL_SEARCH, "--trials=2", "--choose=0"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.png").write_bytes(images.encode(photograph(number, 24, 32), "png"))
    return folder


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/healthz", timeout=5).status == 200
    except urllib.error.URLError:
        return False


def test_prepare(neighbours: Nodes, photographs: Path, shards: Path, storage: Path) -> None:
    job = neighbours.submit(
        "jobs/prepare.py", str(photographs), f"--out={storage}/shards", "--val-fraction=0.5", "--min-side-px=48"
    )
    expected = json.loads((shards / "manifest.json").read_text())["data_hash"]
    assert job.summary()["data_hash"] == expected
    assert job.info()["driver_exit_code"] == 0


def test_pretrain_train_and_evaluate(neighbours: Nodes, real_shards: Path, pictures: Path, storage: Path) -> None:
    run = [f"--data={real_shards}", *FOUR_STEPS, "--num-workers=2"]
    pretrained = neighbours.submit("jobs/pretrain.py", *run, *SMALL_PRETRAIN, f"--out={storage}/pretrained")
    assert pretrained.summary()["step"] == 4
    assert "4/4: loss_train = " in pretrained.logs()
    trained = neighbours.submit(
        "jobs/train.py", *run, *SMALL_TRAIN, f"--init={storage}/pretrained", f"--out={storage}/trained"
    )
    assert trained.summary()["step"] == 4
    assert [row["num_workers"] for row in rows(storage / "trained" / "metrics.jsonl")] == [2, 2]
    evaluated = neighbours.submit(
        "jobs/evaluate.py", f"--generator={storage}/trained", f"--hr={pictures}", "--degradation=opencv_cubic"
    )
    assert evaluated.summary()["num_images"] == 12


def test_tune(neighbours: Nodes, real_shards: Path, generator_file: str, storage: Path) -> None:
    job = neighbours.submit(
        "jobs/tune.py", f"--data={real_shards}", f"--init={generator_file}", f"--out={storage}/search", *SEARCH,
        *FOUR_STEPS,
    )  # fmt: skip
    assert job.summary()["trials"] == {"finished": 3}


def test_upscale(neighbours: Nodes, generator_file: str, pictures: Path, storage: Path) -> None:
    job = neighbours.submit("jobs/upscale.py", str(pictures), f"--generator={generator_file}", f"--out={storage}/out")
    assert job.summary()["upscaled"] == 12
    assert len(list((storage / "out").glob("*.png"))) == 12


def test_promote_and_serve(neighbours: Nodes, generator_file: str, real_shards: Path, storage: Path) -> None:
    gate = [f"--to={storage}/registry", f"--data={real_shards}"]
    refused = neighbours.submit("jobs/promote.py", generator_file, *gate)
    assert refused.ended()["driver_exit_code"] == 2, "untrained"
    assert neighbours.submit("jobs/promote.py", "psnr", *gate).summary()["generator"] == "psnr"

    url = f"http://127.0.0.1:{free_port()}"
    served = neighbours.submit("jobs/serve.py", f"--registry={storage}/registry", f"--port={url.rpartition(':')[2]}")
    wait_for(lambda: f"serving on {url}" in served.logs())
    assert answers(url)
    served.stop()
    assert not answers(url), "the endpoint ends with its job"


def test_what_cannot_be_used_is_one_line_and_fails(neighbours: Nodes, storage: Path) -> None:
    """Ray's own command says 1 for whatever a job ended with; the job's own exit code is the verb's."""
    job = neighbours.submit("jobs/pretrain.py", f"--data={storage}/nothing", f"--out={storage}/run")
    info = job.ended()
    assert (info["status"], info["driver_exit_code"]) == ("FAILED", 2)
    last = job.logs().strip().splitlines()[-1]
    assert last.startswith(f"srgan-ray pretrain: --data {storage}/nothing")
    assert "Traceback" not in job.logs()


@pytest.mark.parametrize(
    ("arguments", "code"), [(["samples", "--limit=4"], 0), (["samples", "--limit=-1"], 1)], ids=["good", "bad"]
)
def test_the_submitting_command_waits_and_tells(
    neighbours: Nodes, storage: Path, arguments: list[str], code: int
) -> None:
    command = ["python", "jobs/prepare.py", *arguments, f"--out={storage}/shards"]
    done = subprocess.run(neighbours.submitting(*command), **neighbours.as_user(), capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("data_hash" if code == 0 else "--limit -1; wanted") in done.stdout


def test_a_stopped_run_goes_on_when_submitted_again(neighbours: Nodes, shards: Path, storage: Path) -> None:
    def run(name: str, steps: int) -> list[str]:
        steps_flags = [f"--steps={steps}", "--evaluate-every=40", "--checkpoint-every=20", "--num-workers=2"]
        places = [f"--data={shards}", f"--out={storage}/{name}"]
        return ["jobs/pretrain.py", *places, *steps_flags, *SMALL_PRETRAIN, "--schedule=constant"]

    job = neighbours.submit(*run("run", 400))
    wait_for(lambda: rows(storage / "run" / "metrics.jsonl"))
    job.stop()
    assert job.info()["status"] == "STOPPED"
    assert "stopped; the same command goes on" in job.logs()
    stopped_at = rows(storage / "run" / "metrics.jsonl")[-1]["step"]
    assert stopped_at < 400, "it ended before it could be stopped"

    again = neighbours.submit(*run("run", 400))
    assert again.summary()["step"] == 400
    neighbours.submit(*run("left_alone", 400)).summary()
    files = (str(storage / name / "generator.safetensors") for name in ("run", "left_alone"))
    found, expected = (load_generator(file)[0].state_dict() for file in files)
    assert all(found[name].equal(expected[name]) for name in expected)
    assert steps(storage / "run") == list(range(40, 401, 40)), "nothing skipped, nothing twice"


def test_a_stopped_prepare_goes_on_when_submitted_again(
    neighbours: Nodes, many_photographs: Path, storage: Path
) -> None:
    command = ["jobs/prepare.py", str(many_photographs), f"--out={storage}/shards"]
    job = neighbours.submit(*command)
    wait_for(lambda: len(list((storage / "shards").rglob("*.parquet"))) >= 4)
    job.stop()
    assert job.info()["status"] == "STOPPED", "it ended before it could be stopped"
    again = neighbours.submit(*command)
    assert again.summary()["data_hash"] == make_shards(storage / "other", Request(str(many_photographs))).data_hash
    assert "going on: " in again.logs()


def test_a_stopped_search_goes_on_when_submitted_again(
    neighbours: Nodes, shards: Path, generator_file: str, storage: Path
) -> None:
    command = [
        "jobs/tune.py", f"--data={shards}", f"--init={generator_file}", f"--out={storage}/search", *SEARCH,
        "--steps=200", "--evaluate-every=20", "--checkpoint-every=20",
    ]  # fmt: skip
    trials = storage / "search" / "trials"
    job = neighbours.submit(*command)
    wait_for(lambda: rows(trials / "00001" / "metrics.jsonl"))
    job.stop()
    assert job.info()["status"] == "STOPPED", "it ended before it could be stopped"
    assert neighbours.submit(*command).summary()["trials"] == {"finished": 3}
    for number in range(3):
        assert steps(trials / f"{number:05d}") == list(range(20, 201, 20))


def test_a_stopped_upscale_goes_on_when_submitted_again(neighbours: Nodes, pictures: Path, storage: Path) -> None:
    command = ["jobs/upscale.py", str(pictures), "--generator=psnr", f"--out={storage}/out"]
    job = neighbours.submit(*command)
    wait_for(lambda: list((storage / "out").glob("*.png")))
    job.stop()
    summary = neighbours.submit(*command).summary()
    assert summary["skipped"] + summary["upscaled"] == 12
    assert len(rows(storage / "out" / "manifest.jsonl")) == 12


@pytest.mark.parametrize(("headers", "code"), [({}, 401), ({"Authorization": "Bearer wrong"}, 403)])
def test_the_job_server_takes_nothing_without_the_token(neighbours: Nodes, headers: dict, code: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{neighbours.url}/api/jobs/", headers=headers), timeout=10)
    assert refused.value.code == code


def test_the_project_travels_with_the_job(neighbours: Nodes) -> None:
    """What runs is not the installed one."""
    job = neighbours.submit("-c", "import srgan_ray; print(srgan_ray.__file__)")
    job.ended()
    path = job.logs().splitlines()[-1]
    assert "working_dir_files" in path
    assert not path.startswith(str(ROOT))
