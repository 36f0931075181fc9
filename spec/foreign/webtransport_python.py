"""WebTransport with aioquic's client: `webtransport_python.py ADDRESS` talks to spec/foreign/webtransport_server.lua in bytes of
docs/PROTOCOL.md, and prints "ok NAME" or "failed NAME: why" for each check."""

import asyncio
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DatagramReceived, DataReceived, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamDataReceived, StreamReset

# HELLO with capability 4 (events in datagrams), on the control stream
HELLO = bytes.fromhex("00 001e000004 000102030405060708090a0b0c0d0e0f 02 01 04 80400000 03 02 4064")
ADD = bytes.fromhex("02 15 04 01 01 08 6d6174682e616464 80007530 03 00 920a14")
THIRTY = bytes.fromhex("04 07 4100 01 00 00 911e")  # from a method that is declared idempotent
BYE = bytes.fromhex("02 0e 00 01 02 03 627965 80007530 03 00 90")
LANE = bytes.fromhex("01 0c0f000100036c6f670091a568656c6c6f")
DATAGRAM = bytes.fromhex("0c 00 01 00 08 706f736974696f6e 00 91 a568656c6c6f")
SHOUT = bytes.fromhex("02 0c 03 00 03 05 73686f7574 00 03 00") + bytes.fromhex("08 07 00 00") + b"hello"
FIRST_CODE = 0x52E4A40FA8DB


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic, enable_webtransport=True)
        self.heads, self.bodies, self.ended, self.streams, self.resets, self.stops = {}, {}, set(), {}, {}, {}
        self.datagrams, self.closed, self.changed, self.ours = [], None, asyncio.Event(), set()

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.closed = event
        elif isinstance(event, StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, StopSendingReceived):
            self.stops[event.stream_id] = event.error_code
        if isinstance(event, StreamDataReceived) and event.stream_id in self.ours:
            # aioquic reads what comes on a session's stream that we opened as if it were frames of HTTP/3
            self.streams[event.stream_id] = self.streams.get(event.stream_id, b"") + event.data
            if event.end_stream:
                self.ended.add(event.stream_id)
            self.changed.set()
            return
        for e in self.http.handle_event(event):
            if isinstance(e, HeadersReceived):
                self.heads[e.stream_id] = dict(e.headers)
            elif isinstance(e, DataReceived):
                self.bodies[e.stream_id] = self.bodies.get(e.stream_id, b"") + e.data
            elif isinstance(e, WebTransportStreamDataReceived):
                self.streams[e.stream_id] = self.streams.get(e.stream_id, b"") + e.data
            elif isinstance(e, DatagramReceived):
                self.datagrams.append(e.data)
            if getattr(e, "stream_ended", False):
                self.ended.add(e.stream_id)
        self.changed.set()

    async def until(self, fn):
        async def wait():
            while not fn():
                if self.closed:
                    raise RuntimeError(f"closed with {self.closed.error_code:#x} {self.closed.reason_phrase}")
                self.changed.clear()
                await self.changed.wait()

        await asyncio.wait_for(wait(), 60)

    async def ask(self, method, path, fields=()):
        stream = self._quic.get_next_available_stream_id()
        head = [(b":method", method), (b":scheme", b"https"), (b":authority", b"localhost"), (b":path", path), *fields]
        self.http.send_headers(stream, head, end_stream=method != b"CONNECT")
        self.transmit()
        await self.until(lambda: stream in self.heads)
        return stream, int(self.heads[stream][b":status"])

    async def session(self, path=b"/live", origin=b"https://pages.example"):
        return await self.ask(b"CONNECT", path, [(b":protocol", b"webtransport"), (b"origin", origin)])

    def stream(self, session, data, end=False, uni=False):
        stream = self.http.create_webtransport_stream(session, is_unidirectional=uni)
        if not uni:
            self.ours.add(stream)
        self._quic.send_stream_data(stream, data, end)
        self.transmit()
        return stream

    def incoming(self, prefix, text):
        return any(s % 4 == 3 and data.startswith(prefix) and text in data for s, data in self.streams.items())


class Checks:
    def __init__(self, client):
        self.c, self.id = client, None

    async def a_session_is_taken(self):
        self.id, status = await self.c.session()
        assert status == 200, status
        await self.c.until(lambda: self.c.incoming(b"\x00\x00", b""))  # the server's HELLO

    async def a_call(self):
        self.c.stream(self.id, HELLO, uni=True)
        s = self.c.stream(self.id, ADD, end=True)
        await self.c.until(lambda: s in self.c.ended)
        assert self.c.streams[s] == THIRTY, self.c.streams[s].hex()

    async def an_event_on_a_lane(self):
        self.c.stream(self.id, LANE, uni=True)
        await self.c.until(lambda: self.c.incoming(b"\x01\x0c", b"hello too"))

    async def an_event_in_a_datagram(self):
        for _ in range(50):  # they may be lost
            self.c.http.send_datagram(self.id, DATAGRAM)
            self.c.transmit()
            try:
                await asyncio.wait_for(self.c.until(lambda: self.c.datagrams), 1)
                break
            except asyncio.TimeoutError:
                pass
        assert self.c.datagrams[0].startswith(b"\x0c") and b"hello too" in self.c.datagrams[0]

    async def a_named_stream(self):
        s = self.c.stream(self.id, SHOUT)
        await self.c.until(lambda: b"HELLO" in self.c.streams.get(s, b""))
        self.c._quic.send_stream_data(s, b"", True)
        self.c.transmit()
        await self.c.until(lambda: s in self.c.ended)

    async def a_reset_is_answered(self):
        s = self.c.stream(self.id, SHOUT)
        await self.c.until(lambda: b"HELLO" in self.c.streams.get(s, b""))
        self.c._quic.reset_stream(s, FIRST_CODE + 0x10)
        self.c.transmit()
        await self.c.until(lambda: s in self.c.ended)  # a responder ends with a status, never a reset
        assert b"cancelled" in self.c.streams[s], self.c.streams[s]

    async def a_stream_of_no_session_is_refused(self):
        s = self.c.stream(40000, b"x")
        await self.c.until(lambda: s in self.c.resets)
        assert self.c.resets[s] == 0x3994BD84, hex(self.c.resets[s])

    async def other_paths_and_origins_are_refused(self):
        assert (await self.c.session(path=b"/other"))[1] == 404
        assert (await self.c.session(origin=b"https://evil.example"))[1] == 403

    async def the_servers_close_arrives(self):
        self.c.stream(self.id, BYE, end=True)
        await self.c.until(lambda: self.id in self.c.ended)
        body = self.c.bodies[self.id]
        assert body[:3] == bytes.fromhex("68430a") and body[3:7] == bytes.fromhex("00000014") and body[7:] == b"enough", body

    async def our_close_arrives(self):
        session, status = await self.c.session()
        assert status == 200, status
        self.c.stream(session, HELLO, uni=True)
        s = self.c.stream(session, ADD, end=True)
        await self.c.until(lambda: s in self.c.ended)
        self.c.http.send_data(session, bytes.fromhex("6843 08 0000002a") + b"done", end_stream=True)
        self.c.transmit()
        await self.c.until(lambda: session in self.c.ended)
        for _ in range(200):  # the server hears of it in its own time
            stream, status = await self.c.ask(b"GET", b"/ended")
            await self.c.until(lambda: stream in self.c.ended)
            body = self.c.bodies[stream].decode()
            if "done" in body:
                break
            await asyncio.sleep(0.1)
        assert "webtransport https://pages.example the peer closed the connection: done" in body, body


async def main(address):
    host, port = address.rsplit(":", 1)
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, max_datagram_frame_size=65536, verify_mode=ssl.CERT_NONE
    )
    async with connect(host, int(port), configuration=configuration, create_protocol=Client) as client:
        checks = Checks(client)
        for name in [n for n in vars(Checks) if not n.startswith("_")]:
            text = name.replace("_", " ")
            try:
                await getattr(checks, name)()
                print(f"ok {text}", flush=True)
            except Exception as e:  # pylint: disable=broad-except
                print(f"failed {text}: {type(e).__name__} {e}", flush=True)


asyncio.run(main(sys.argv[1]))
