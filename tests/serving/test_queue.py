"""How many requests may wait, how much is worked on at once, and what is told of it."""

import asyncio
import http.client
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from fakes import photograph, served
from srgan_ray.data import images
from srgan_ray.errors import InputError
from srgan_ray.serving.api import build_api
from srgan_ray.serving.handler import Handler, ModelConfig
from srgan_ray.serving.protocol import Limits
from srgan_ray.serving.queue import Room, recorded
from srgan_ray.serving.watch import Record, Watch

AS_PNG = {"content-type": "image/png"}


class Memory(Watch):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.inside: list[int] = []
        self.batches: list[int] = []

    def answered(self, record: Record) -> None:
        self.records.append(record)

    def queued(self, num_requests: int) -> None:
        self.inside.append(num_requests)

    def ran(self, num_tiles: int, seconds: float) -> None:
        assert seconds > 0
        self.batches.append(num_tiles)


def test_a_room_holds_so_many_pixels_and_lets_nobody_overtake() -> None:
    order: list[str] = []

    async def come(room: Room, name: str, num_px: int) -> None:
        await room.enter(num_px)
        order.append(name)

    async def scene() -> None:
        room = Room(10)
        await come(room, "first", 6)
        large = asyncio.create_task(come(room, "large", 10))
        await asyncio.sleep(0)
        small = asyncio.create_task(come(room, "small", 1))
        await asyncio.sleep(0.01)
        assert order == ["first"]
        room.leave(6)
        await large
        await asyncio.sleep(0.01)
        assert order == ["first", "large"]
        room.leave(10)
        await small

    asyncio.run(scene())
    assert order == ["first", "large", "small"]


def test_who_gives_up_waiting_for_room_takes_none() -> None:
    async def scene() -> None:
        room = Room(10)
        await room.enter(10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(room.enter(5), 0.01)
        room.leave(10)
        await asyncio.wait_for(room.enter(10), 1)

    asyncio.run(scene())


def test_what_is_decoded_at_once_is_bounded_in_megapixels(generator_file: str, monkeypatch) -> None:
    running: set[int] = set()
    most: list[int] = []
    upscale = Handler.upscale

    def counted(self, *arguments):
        running.add(threading.get_ident())
        most.append(len(running))
        time.sleep(0.05)
        result = upscale(self, *arguments)
        running.remove(threading.get_ident())
        return result

    monkeypatch.setattr(Handler, "upscale", counted)
    png = images.encode(photograph(0, 20, 50), "png")
    limits = Limits(max_megapixels=0.001, max_megapixels_at_once=0.0021, max_waiting=8)
    with (
        TestClient(build_api(Handler(ModelConfig(generator_file)), limits)) as client,
        ThreadPoolExecutor(8) as executor,
    ):
        posts = [executor.submit(client.post, "/upscale", content=png, headers=AS_PNG) for _ in range(8)]
        assert [future.result().status_code for future in posts] == [200] * 8
    assert max(most) == 2


def test_room_that_never_suffices_is_refused() -> None:
    with pytest.raises(InputError, match="--max-megapixels-at-once 2"):
        Limits(max_megapixels=3, max_megapixels_at_once=2)


def test_the_watch_hears_of_every_request(generator_file: str) -> None:
    memory = Memory()
    png = images.encode(photograph(0, 20, 50), "png")
    handler = Handler(ModelConfig(generator_file), memory)
    with TestClient(build_api(handler, Limits(max_megapixels=0.01))) as client:
        client.post("/upscale?format=webp", content=png, headers=AS_PNG)
        client.post("/upscale", content=b"no image", headers=AS_PNG)
        client.post("/upscale?format=gif", content=png, headers=AS_PNG)
        client.post("/upscale?fidelity=0.5", content=png, headers=AS_PNG)
        broken = client.post("/upscale", content=b"--x\r\nbroken", headers={"content-type": "multipart/form-data"})
    assert [record.status for record in memory.records] == [200, 400, 422, 422, 400]
    done, refused, *_, malformed = memory.records
    assert malformed.detail == broken.json()["detail"]
    assert (done.format, done.megapixels, done.detail) == ("webp", 0.001, "")
    assert done.work
    assert done.work.num_tiles == 1
    assert 0 < done.work.decode_s + done.work.model_s + done.work.encode_s < done.seconds
    assert refused.work is None
    assert "not an image" in refused.detail
    assert memory.inside == [1, 0, 1, 0, 1, 0]
    assert memory.batches == [1]


def test_the_watch_hears_of_errors_and_of_clients_that_leave(generator_file: str, monkeypatch) -> None:
    memory = Memory()
    for error, status in ((RuntimeError("broken"), 500), (asyncio.CancelledError(), 499)):
        with pytest.raises(type(error)), recorded(memory, Record()):
            raise error
        assert memory.records[-1].status == status
    assert "broken" in memory.records[0].detail


def test_408_for_a_body_that_does_not_arrive(generator_file: str) -> None:
    limits = Limits(receive_limit_s=0.3)
    with served(build_api(Handler(ModelConfig(generator_file)), limits)) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        connection.putrequest("POST", "/upscale")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"x" * 10)
        started = time.monotonic()
        answer = connection.getresponse()
        assert answer.status == 408
        assert answer.headers["content-type"] == "application/problem+json"
        assert 0.2 < time.monotonic() - started < 5
