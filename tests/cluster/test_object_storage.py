"""The whole pipeline on an S3, by nodes that share no folder."""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from fakes import photograph
from nodes import Network, Nodes, started
from small import FOUR_STEPS, SMALL_PRETRAIN, SMALL_SEARCH, SMALL_TRAIN
from srgan_ray.data import images
from srgan_ray.data.sources import list_photographs
from srgan_ray.demo import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
SECRETS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def s3(network: Network) -> Iterator[Any]:
    """A client of an S3 that the network's nodes reach, with an empty bucket `kennel`."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(network.gateway, free_port(), verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url="http://{}:{}".format(*server.get_host_and_port()))
        client.create_bucket(Bucket="kennel")
        yield client
    server.stop()


@pytest.fixture(scope="module")
def apart(network: Network, s3: Any) -> Iterator[Nodes]:
    """A head and two workers, each with temporary files that no other sees, which know the S3 by their environment."""
    environment = SECRETS | {"AWS_ENDPOINT_URL": s3.meta.endpoint_url}
    with started(2, Nodes(network, Path(tempfile.gettempdir()), environment)) as nodes:
        yield nodes


def names(s3: Any, prefix: str) -> set[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="kennel", Prefix=prefix)
    return {entry["Key"].removeprefix(prefix) for page in pages for entry in page.get("Contents", [])}


def test_the_nodes_share_no_folder(apart: Nodes, tmp_path: Path) -> None:
    job = apart.submit("-c", f"import os; print(os.path.exists({str(tmp_path)!r}))")
    job.ended()
    assert job.logs().splitlines()[-1] == "False"


def test_the_pipeline_runs_on_object_storage(apart: Nodes, s3: Any) -> None:
    found = list_photographs("samples", 0, 0)
    for sample in found:
        s3.put_object(Bucket="kennel", Key=f"photographs/{sample.name}", Body=sample.read())
    for number in range(12):
        content = images.encode(photograph(number, 24, 32), "png")
        s3.put_object(Bucket="kennel", Key=f"in/breed_{number % 2}/{number}.png", Body=content)

    def run(verb: str, *arguments: str) -> dict:
        return apart.submit(f"jobs/{verb}.py", *arguments).summary()

    prepared = run("prepare", "s3://kennel/photographs", "--out=s3://kennel/shards", "--val-fraction=0.2")
    assert prepared["train"] + prepared["val"] + prepared["rejected"] == len(found)
    data = ["--data=s3://kennel/shards", "--num-workers=2"]
    run("pretrain", *data, *FOUR_STEPS, *SMALL_PRETRAIN, "--out=s3://kennel/pretrained")
    run("train", *data, *FOUR_STEPS, *SMALL_TRAIN, "--init=s3://kennel/pretrained", "--out=s3://kennel/trained")
    assert {"config.json", "metrics.jsonl", "generator.safetensors", "report.html"} <= names(s3, "trained/")
    searched = run(
        "tune",
        data[0],
        *FOUR_STEPS,
        *SMALL_SEARCH,
        "--trials=1",
        "--choose=0",
        "--init=s3://kennel/pretrained",
        "--out=s3://kennel/search",
    )
    assert searched["trials"] == {"finished": 2}
    promoted = run("promote", "psnr", "--to=s3://kennel/registry", data[0])
    assert promoted["generator"] == "psnr"
    upscaled = run("upscale", "s3://kennel/in", "--generator=s3://kennel/registry", "--out=s3://kennel/out")
    assert upscaled["upscaled"] == 12
    assert names(s3, "out/") == {"manifest.jsonl", *(f"breed_{number % 2}/{number}.png" for number in range(12))}
