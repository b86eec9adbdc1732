"""HTTP that no client library sends, over a real socket to a server in another process."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from fakes import served
from hostile import (
    ALIVE,
    END,
    FILE,
    GOOD,
    HOSTILE,
    PNG,
    Server,
    broken,
    exchange,
    form,
    part,
    peak_mb,
    post,
    served_apart,
    statuses,
)
from processes import wait_for
from srgan_ray.serving.api import build_api
from srgan_ray.serving.handler import Handler, ModelConfig
from srgan_ray.serving.protocol import PROBLEM_TYPE, Limits
from srgan_ray.serving.queue import CLIENT_LEFT
from srgan_ray.serving.watch import Record, Watch

LIMITS = Limits(max_mb=5, max_megapixels=0.5, max_megapixels_at_once=0.5, receive_limit_s=0.5)
ANSWERS = {100, 200, 400, 404, 405, 408, 413, 415, 422}
SILENCE_S = 2
NUM_CLIENTS = 8
MAX_GROWTH_MB = 50
NOT_HTTP = b"Invalid HTTP request received."  # the answer of the HTTP server itself


@pytest.fixture(scope="module")
def server(generator_file: str) -> Iterator[Server]:
    """Killed by nothing that these tests send."""
    with served_apart(generator_file, LIMITS) as running:
        yield running


@pytest.mark.parametrize("name", HOSTILE)
def test_the_answer_to_a_hostile_request_and_a_good_one_after_it(server: Server, name: str) -> None:
    wanted, pieces = HOSTILE[name]
    reply = exchange(server.url, pieces, SILENCE_S)
    assert statuses(reply) == wanted, reply[:1000]
    if wanted and wanted[-1] not in (200, 403):
        assert PROBLEM_TYPE.encode() in reply or NOT_HTTP in reply
    assert statuses(exchange(server.url, [GOOD])) == [200]


def test_any_broken_request_leaves_the_server_whole(server: Server) -> None:
    dice = random.Random(0)
    requests = [GOOD, ALIVE, form(part(FILE) + END), HOSTILE["chunks"][1][0], post(b"no image")]
    exchange(server.url, [GOOD])
    before = peak_mb(server.process)
    with ThreadPoolExecutor(NUM_CLIENTS) as executor:
        replies = list(
            executor.map(
                lambda pieces: statuses(exchange(server.url, pieces, SILENCE_S)),
                [broken(dice.choice(requests), dice) for _ in range(200)],
            )
        )
    found = {status for reply in replies for status in reply}
    assert {200, 400} <= found <= ANSWERS
    assert statuses(exchange(server.url, [GOOD])) == [200]
    assert peak_mb(server.process) - before < MAX_GROWTH_MB


class Notes(Watch):
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def answered(self, record: Record) -> None:
        self.records.append(record)


@pytest.mark.parametrize("request_", [post(PNG, length=b"1000"), form(part(FILE))[:-20]], ids=["body", "form"])
def test_a_client_that_breaks_off_is_no_error_of_ours(
    generator_file: str, request_: bytes, capfd: pytest.CaptureFixture
) -> None:
    notes = Notes()
    with served(build_api(Handler(ModelConfig(generator_file), notes), Limits())) as url:
        exchange(url, [request_], timeout_s=0.3)
        wait_for(lambda: notes.records)
        assert statuses(exchange(url, [GOOD])) == [200]
    assert [record.status for record in notes.records] == [CLIENT_LEFT, 200]
    assert "Traceback" not in capfd.readouterr().err
