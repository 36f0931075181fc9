"""HTTP/3 with aioquic's client: `http_python.py ADDRESS SIZE CALLS` asks spec/foreign/http_server.lua and prints
"ok NAME", "skipped NAME: why" or "failed NAME: why" for each check."""

import asyncio
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset

PATTERN = bytes(range(251))


def pattern(size):
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


class Answer:
    def __init__(self):
        self.headers, self.trailers, self.body = None, None, bytearray()
        self.done = asyncio.get_running_loop().create_future()

    @property
    def status(self):
        return int(self.headers[b":status"])


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic, enable_webtransport=True)
        self.said = {}  # in WebTransport sessions: what the server says first
        self.answers = {}

    def quic_event_received(self, event):
        if isinstance(event, StreamReset) and event.stream_id in self.answers:
            self.fail(self.answers[event.stream_id], f"reset with {event.error_code:#x}")
        elif isinstance(event, ConnectionTerminated):
            for answer in self.answers.values():
                self.fail(answer, f"closed with {event.error_code:#x} {event.reason_phrase}")
        for http_event in self.http.handle_event(event):
            if isinstance(http_event, WebTransportStreamDataReceived):
                said = self.said.get(http_event.session_id)
                if said is not None and not said.done() and http_event.data:
                    said.set_result(http_event.data)
                continue
            answer = self.answers.get(http_event.stream_id)
            if answer is None:
                continue
            if isinstance(http_event, HeadersReceived):
                if answer.headers is None:
                    answer.headers = dict(http_event.headers)
                    if getattr(answer, "begun", None) is not None and not answer.begun.done():
                        answer.begun.set_result(None)
                else:
                    answer.trailers = dict(http_event.headers)
            elif isinstance(http_event, DataReceived):
                answer.body += http_event.data
            if getattr(http_event, "stream_ended", False) and not answer.done.done():
                answer.done.set_result(answer)

    @staticmethod
    def fail(answer, why):
        if not answer.done.done():
            answer.done.set_exception(RuntimeError(why))

    async def session(self, path):
        """Opens a WebTransport session: its number, and what the server says in it first."""
        stream = self._quic.get_next_available_stream_id()
        answer = self.answers[stream] = Answer()
        said = self.said[stream] = asyncio.get_running_loop().create_future()
        answer.begun = asyncio.get_running_loop().create_future()
        self.http.send_headers(
            stream,
            [
                (b":method", b"CONNECT"),
                (b":scheme", b"https"),
                (b":authority", b"localhost"),
                (b":path", path.encode()),
                (b":protocol", b"webtransport"),
            ],
        )
        self.transmit()
        await asyncio.wait_for(answer.begun, 100)
        return stream, answer.status, await asyncio.wait_for(said, 100)

    async def request(self, method, path, body=None, fields=(), trailers=None):
        stream = self._quic.get_next_available_stream_id()
        answer = self.answers[stream] = Answer()
        head = [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path.encode()),
        ]
        head += [(name.encode(), value.encode()) for name, value in fields]
        self.http.send_headers(stream, head, end_stream=body is None)
        if body is not None:
            self.http.send_data(stream, body, end_stream=trailers is None)
        if trailers is not None:
            self.http.send_headers(stream, [(n.encode(), v.encode()) for n, v in trailers], end_stream=True)
        self.transmit()
        return await asyncio.wait_for(answer.done, 100)


def want(answer, status, body):
    if answer.status != status or bytes(answer.body) != body:
        raise AssertionError(f"status {answer.status}, {len(answer.body)} bytes: {bytes(answer.body[:60])}")


async def get(client, size, calls):
    answer = await client.request("GET", "/hello")
    want(answer, 200, b"hello\n")
    assert answer.headers[b"x-from"] == b"echostream", answer.headers


class Skipped(Exception):
    pass


async def head(client, size, calls):
    raise Skipped("aioquic closes the connection when the answer to HEAD says its length (RFC 9110, 8.6 allows that)")


async def post(client, size, calls):
    want(await client.request("POST", "/echo", b"there and back"), 200, b"there and back")


async def not_found(client, size, calls):
    answer = await client.request("GET", "/nowhere")
    assert answer.status == 404, answer.status


async def down(client, size, calls):
    want(await client.request("GET", f"/bytes/{size}"), 200, pattern(size))


async def up(client, size, calls):
    want(await client.request("POST", "/bytes", pattern(size)), 200, b"%d\n" % size)


async def there_and_back(client, size, calls):
    want(await client.request("POST", "/echo", pattern(size // 10)), 200, pattern(size // 10))


async def crowd(client, size, calls):
    texts = [b"%032d" % i for i in range(calls)]
    for text, answer in zip(texts, await asyncio.gather(*[client.request("POST", "/echo", t) for t in texts])):
        want(answer, 200, text)


async def a_range(client, size, calls):
    answer = await client.request("GET", "/files/pattern", fields=[("range", "bytes=250-259")])
    want(answer, 206, bytes([250, 0, 1, 2, 3, 4, 5, 6, 7, 8]))


async def rpc(client, size, calls):
    want(await client.request("POST", "/rpc/math.add", b"[10,20]", fields=[("content-type", "application/json")]), 200, b"30")


async def trailers_down(client, size, calls):
    answer = await client.request("GET", "/trailers")
    want(answer, 200, b"body")
    assert answer.trailers == {b"x-after": b"done"}, answer.trailers


async def trailers_up(client, size, calls):
    want(await client.request("POST", "/trailers", b"x", trailers=[("x-after", "sent")]), 200, b"sent\n")


async def webtransport(client, size, calls):
    session, status, said = await client.session("/echostream")
    assert status == 200, status
    assert len(said) > 0
    # The end of the CONNECT stream is the end of the session; the connection goes on.
    client._quic.send_stream_data(session, b"", end_stream=True)
    client.transmit()
    want(await client.request("GET", "/hello"), 200, b"hello\n")


CHECKS = {
    "get": get,
    "head": head,
    "post": post,
    "not found": not_found,
    "a large body down": down,
    "a large body up": up,
    "a large body there and back": there_and_back,
    "many in flight": crowd,
    "a range": a_range,
    "a call": rpc,
    "trailers": trailers_down,
    "trailers of a request": trailers_up,
    "a WebTransport session": webtransport,
}


async def main(address, size, calls):
    host, port = address.rsplit(":", 1)
    config = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE, max_data=1 << 24,
                               max_stream_data=1 << 24, max_datagram_frame_size=65536)
    async with connect(host, int(port), configuration=config, create_protocol=Client) as client:
        for name, check in CHECKS.items():
            try:
                await check(client, size, calls)
                print("ok", name, flush=True)
            except Skipped as why:
                print(f"skipped {name}: {why}", flush=True)
            except Exception as problem:  # whatever it is: the others go on
                print(f"failed {name}: {problem!r}", flush=True)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
