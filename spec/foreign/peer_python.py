"""The conversation of spec/foreign/README.md on aioquic."""

import asyncio
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    DatagramFrameReceived,
    HandshakeCompleted,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

ALPN = "foreign/1"
PATIENCE = 10


def say(text):
    print(text, flush=True)


class Stopped(Exception):
    pass


class Reset(Exception):
    pass


class Stream:
    """One stream of a connection: bytes that came, how it ended."""

    def __init__(self, connection, number):
        self.connection = connection
        self.number = number
        self.data = b""
        self.ended = False
        self.reset = None
        self.stop = None
        self.changed = asyncio.Event()

    async def _wait(self):
        self.changed.clear()
        await asyncio.wait_for(self.changed.wait(), PATIENCE)

    def write(self, data, finish=False):
        if self.stop is not None:
            raise Stopped(self.stop)
        self.connection._quic.send_stream_data(self.number, data, finish)
        self.connection.transmit()

    async def read(self):
        """The next bytes, b"" at the end."""
        while not self.data and not self.ended:
            if self.reset is not None:
                raise Reset(self.reset)
            await self._wait()
        data, self.data = self.data, b""
        return data

    async def read_to_end(self):
        parts = []
        while part := await self.read():
            parts.append(part)
        return b"".join(parts)

    async def read_command(self):
        text = b""
        while b"\n" not in text:
            part = await self.read()
            if not part:
                raise EOFError
            text += part
        line, rest = text.split(b"\n", 1)
        word, _, argument = line.decode().partition(" ")
        return word, argument, rest

    def abort(self, code):
        self.connection._quic.reset_stream(self.number, code)
        self.connection.transmit()

    def ask_to_stop(self, code):
        self.connection._quic.stop_stream(self.number, code)
        self.connection.transmit()

    async def stopped(self):
        while self.stop is None:
            await self._wait()
        return self.stop


class Peer(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.streams = {}
        self.incoming = {False: asyncio.Queue(), True: asyncio.Queue()}  # by "is one-way"
        self.datagrams = asyncio.Queue()
        self.terminated = asyncio.get_running_loop().create_future()
        self.seen = {}
        self.resumed = False
        self.closing = False  # we do it ourselves
        self.tasks = set()

    def keep(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def open(self, one_way=False):
        number = self._quic.get_next_available_stream_id(is_unidirectional=one_way)
        self.streams[number] = stream = Stream(self, number)
        return stream

    def stream(self, number):
        if number not in self.streams:
            self.streams[number] = stream = Stream(self, number)
            self.incoming[bool(number & 2)].put_nowait(stream)
        return self.streams[number]

    def quic_event_received(self, event):
        if isinstance(event, HandshakeCompleted):
            self.resumed = event.session_resumed
        elif isinstance(event, StreamDataReceived):
            stream = self.stream(event.stream_id)
            stream.data += event.data
            stream.ended = stream.ended or event.end_stream
            stream.changed.set()
        elif isinstance(event, StreamReset):
            stream = self.stream(event.stream_id)
            stream.reset = event.error_code
            stream.changed.set()
        elif isinstance(event, StopSendingReceived):
            stream = self.stream(event.stream_id)
            stream.stop = event.error_code
            stream.changed.set()
        elif isinstance(event, DatagramFrameReceived):
            self.datagrams.put_nowait(event.data)
        elif isinstance(event, ConnectionTerminated):
            if not self.terminated.done():
                self.terminated.set_result(event)

    def send_datagram(self, data):
        self._quic.send_datagram_frame(data)
        self.transmit()


class Acceptor(Peer):
    def connection_made(self, transport):
        super().connection_made(transport)
        self.keep(self.streams_forever())
        self.keep(self.one_way_forever())
        self.keep(self.datagrams_forever())
        self.keep(self.until_closed())

    async def until_closed(self):
        event = await self.terminated
        if event.frame_type is None and event.error_code != 0 and not self.closing:
            say(f"closed {event.error_code} {event.reason_phrase}")

    async def streams_forever(self):
        while True:
            self.keep(self.serve_stream(await self.incoming[False].get()))

    async def one_way_forever(self):
        while True:
            text = await (await self.incoming[True].get()).read_to_end()
            self.open(True).write(text.upper(), True)

    async def datagrams_forever(self):
        while True:
            self.send_datagram((await self.datagrams.get()).upper())

    async def serve_stream(self, stream):
        word, argument, rest = await stream.read_command()
        if word == "echo":
            data = rest
            while True:
                if data:
                    stream.write(data)
                data = await stream.read()
                if not data:
                    break
            stream.write(b"", True)
        elif word == "uni":
            self.open(True).write(b"from the acceptor", True)
            stream.write(b"", True)
        elif word == "open":
            own = self.open()
            own.write(b"question", True)
            stream.write(await own.read_to_end(), True)
        elif word == "reset":
            stream.abort(int(argument))
        elif word == "stop":
            stream.ask_to_stop(int(argument))
            stream.write(b"stopped", True)
        elif word == "hold":
            self.seen["hold"] = 1
            try:
                await stream.read_to_end()
            except Reset as reset:
                self.seen["reset"] = reset.args[0]
            stream.write(b"", True)
        elif word == "pour":
            stream.write(b"x" * 10000)
            self.seen["stop"] = await stream.stopped()
        elif word == "seen":
            stream.write(str(self.seen.get(argument, "none")).encode(), True)
        elif word == "resumed":
            stream.write(b"yes" if self.resumed else b"no", True)
        elif word == "close":
            code, _, why = argument.partition(" ")
            self.closing = True
            self._quic.close(int(code), None, why)
            self.transmit()


async def accept(cert, key):
    tickets = {}
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[ALPN], max_datagram_frame_size=65535)
    configuration.load_cert_chain(cert, key)
    server = await serve(
        "127.0.0.1",
        0,
        configuration=configuration,
        create_protocol=Acceptor,
        session_ticket_fetcher=lambda label: tickets.pop(label, None),
        session_ticket_handler=lambda ticket: tickets.__setitem__(ticket.ticket, ticket),
    )
    port = server._transport.get_extra_info("sockname")[1]
    say(f"ready 127.0.0.1:{port}")
    await asyncio.Event().wait()  # until it is killed, or its time is over


def expect(expected, got):
    if expected != got:
        raise AssertionError(f"wanted {expected!r}, got {got!r}")


async def ask(peer, line):
    stream = peer.open()
    stream.write(line.encode() + b"\n", True)
    return await stream.read_to_end()


def command(peer, line):
    stream = peer.open()
    stream.write(line.encode() + b"\n")
    return stream


async def expect_seen(peer, what, code):
    got = b"none"
    for _ in range(100):
        got = await ask(peer, "seen " + what)
        if got != b"none":
            break
        await asyncio.sleep(0.02)
    expect(str(code).encode(), got)


async def check_echo(peer):
    text = b"0123456789abcdef" * 65536
    stream = command(peer, "echo")
    stream.write(text, True)
    expect(True, text == await stream.read_to_end())


async def check_ten(peer):
    streams = []
    for i in range(10):
        stream = command(peer, "echo")
        stream.write(b"stream %d" % i)
        streams.append(stream)
    for i in range(9, -1, -1):
        streams[i].write(b"", True)
        expect(b"stream %d" % i, await streams[i].read_to_end())


async def check_one_way(peer):
    expect(b"", await ask(peer, "uni"))
    expect(b"from the acceptor", await (await peer.incoming[True].get()).read_to_end())
    peer.open(True).write(b"one way", True)
    expect(b"ONE WAY", await (await peer.incoming[True].get()).read_to_end())


async def check_open(peer):
    stream = command(peer, "open")
    theirs = await peer.incoming[False].get()
    expect(b"question", await theirs.read_to_end())
    theirs.write(b"answer", True)
    expect(b"answer", await stream.read_to_end())


async def check_reset_told(peer):
    stream = command(peer, "reset 7")
    try:
        await stream.read_to_end()
    except Reset as reset:
        return expect(7, reset.args[0])
    raise AssertionError("no reset")


async def check_stop_told(peer):
    stream = command(peer, "stop 9")
    expect(9, await stream.stopped())
    expect(b"stopped", await stream.read_to_end())


async def check_reset_arrives(peer):
    stream = command(peer, "hold")
    stream.write(b"some")
    await expect_seen(peer, "hold", 1)
    stream.abort(5)
    await expect_seen(peer, "reset", 5)


async def check_stop_arrives(peer):
    stream = command(peer, "pour")
    await stream.read()
    stream.ask_to_stop(6)
    await expect_seen(peer, "stop", 6)


async def check_datagram(peer):
    for _ in range(20):
        peer.send_datagram(b"ping")
        try:
            return expect(b"PING", await asyncio.wait_for(peer.datagrams.get(), 0.5))
        except asyncio.TimeoutError:
            pass
    raise AssertionError("no answer")


async def check_close_told(peer):
    command(peer, "close 42 enough")
    event = await asyncio.wait_for(asyncio.shield(peer.terminated), PATIENCE)
    expect((42, None, "enough"), (event.error_code, event.frame_type, event.reason_phrase))


CHECKS = [
    ("echo", check_echo),
    ("ten streams at once", check_ten),
    ("one-way streams", check_one_way),
    ("a stream of the acceptor", check_open),
    ("a reset is told", check_reset_told),
    ("a stop is told", check_stop_told),
    ("a reset arrives", check_reset_arrives),
    ("a stop arrives", check_stop_arrives),
    ("datagram", check_datagram),
    ("close is told", check_close_told),
]


async def dial(address):
    host, _, port = address.rpartition(":")
    tickets = []
    failures = 0

    def configuration():
        return QuicConfiguration(
            is_client=True, alpn_protocols=[ALPN], verify_mode=ssl.CERT_NONE, max_datagram_frame_size=65535
        )

    def connection(config):
        return connect(
            host, int(port), configuration=config, create_protocol=Peer, session_ticket_handler=tickets.append
        )

    async def attempt(name, check):
        nonlocal failures
        try:
            await asyncio.wait_for(check(), 2 * PATIENCE)
            say(f"ok {name}")
        except Exception as error:
            failures += 1
            say(f"failed {name}: {type(error).__name__} {error}")

    async with connection(configuration()) as peer:
        for name, check in CHECKS:
            await attempt(name, lambda: check(peer))

    async def resumption():
        config = configuration()
        if not tickets:
            raise AssertionError("no ticket came")
        config.session_ticket = tickets[-1]
        async with connection(config) as peer:
            expect(b"yes", await ask(peer, "resumed"))
            expect(True, peer.resumed)

    await attempt("resumption", resumption)

    async with connection(configuration()) as peer:
        await ask(peer, "seen stop")
        peer._quic.close(43, None, "done")
        peer.transmit()
    say("ok close arrives")
    return failures


role = sys.argv[1]
if role == "accept":
    asyncio.run(asyncio.wait_for(accept(sys.argv[2], sys.argv[3]), 120))
else:
    sys.exit(1 if asyncio.run(asyncio.wait_for(dial(sys.argv[2]), 60)) else 0)
