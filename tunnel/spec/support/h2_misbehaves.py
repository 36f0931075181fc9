"""A visitor of HTTP/2 that breaks rules: h2_misbehaves.py HOST:PORT. Prints "ok NAME" or "not ok NAME: why"."""
import socket
import struct
import sys

import h2.config
import h2.connection
import h2.events
import hpack

HOST, PORT = sys.argv[1].split(":")
HEAD = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/bytes/10")]


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Visitor:
    """Frames are sent by hand, and what comes is read by hand too: h2 would be too polite."""

    def __init__(self, settings=b""):
        self.s = socket.create_connection((HOST, int(PORT)), timeout=30)
        self.buffer, self.encoder, self.decoder = b"", hpack.Encoder(), hpack.Decoder()
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, settings))

    def send(self, data):
        try:
            self.s.sendall(data)
        except OSError:
            pass  # it is closed already: what was said before is read

    def headers(self, stream, fields=HEAD, flags=5):
        self.send(frame(1, flags, stream, self.encoder.encode(fields)))

    def frames(self):
        while True:
            while len(self.buffer) >= 9:
                n = int.from_bytes(self.buffer[:3], "big")
                if len(self.buffer) < 9 + n:
                    break
                head, payload = self.buffer[:9], self.buffer[9 : 9 + n]
                self.buffer = self.buffer[9 + n :]
                yield head[3], head[4], int.from_bytes(head[5:9], "big"), payload
            try:
                data = self.s.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                return
            self.buffer += data

    def until(self, kind, stream=None):
        """The next frame of that kind, and stream when given; None: the connection ended before."""
        for k, flags, s, payload in self.frames():
            if k == 1:
                fields = self.decoder.decode(payload)
            if k == kind and stream in (None, s):
                return fields if k == 1 else (flags, payload)
        return None

    def reset(self, stream=1):
        got = self.until(3, stream)
        return got and int.from_bytes(got[1], "big")

    def goaway(self):
        """The code of the GOAWAY that is not the polite one; None: closed without."""
        got = self.until(7)
        return got and int.from_bytes(got[1][4:8], "big")

    def status(self, stream=1):
        got = self.until(1, stream)
        return got and dict(got)[":status"]


def goes_on(v, stream=3):
    v.headers(stream)
    assert v.status(stream) == "200"


def case_honest():
    goes_on(Visitor(), 1)


def case_connection_field():
    v = Visitor()
    v.headers(1, HEAD + [("connection", "close")])
    assert v.reset() == 1
    goes_on(v)


def case_upper_case():
    v = Visitor()
    v.headers(1, HEAD + [("X-A", "b")])
    assert v.reset() == 1
    goes_on(v)


def case_two_hosts():
    v = Visitor()
    v.headers(1, HEAD + [("host", "b")])
    assert v.status() == "400"
    goes_on(v)


def case_long_target():
    v = Visitor()
    v.headers(1, HEAD[:3] + [(":path", "/" + "a" * 16384)])
    assert v.status() == "414"
    goes_on(v)


def case_many_fields():
    v = Visitor()
    v.headers(1, HEAD + [("x-%d" % i, "y") for i in range(120)])
    assert v.status() == "431"
    goes_on(v)


def case_length():
    v = Visitor()
    v.headers(1, [(":method", "POST")] + HEAD[1:] + [("content-length", "5")], 4)
    v.send(frame(0, 1, 1, b"abc"))
    assert v.reset() == 1
    goes_on(v)


def case_too_many_streams():
    v = Visitor(struct.pack(">HI", 4, 0))  # a window of 0: none of them ends
    for i in range(30):
        v.headers(i * 2 + 1)
    kinds = {k for k, _, _, _ in zip_until(v)}
    assert 3 in kinds or 7 in kinds


def zip_until(v):
    for f in v.frames():
        yield f
        if f[0] in (3, 7):
            return


def case_data_on_idle():
    v = Visitor()
    v.send(frame(0, 1, 5, b"abc"))
    assert v.goaway() == 1


def case_ping_flood():
    v = Visitor()
    for _ in range(20):
        v.send(frame(6, 0, 0, b"12345678") * 500)
    assert v.goaway() in (11, None)  # None: closed before all was read, which may lose the GOAWAY


def case_rapid_reset():
    v = Visitor()
    for i in range(3000):
        v.headers(i * 2 + 1)
        v.send(frame(3, 0, i * 2 + 1, struct.pack(">I", 8)))
    assert v.goaway() in (11, None)


def case_continuation_flood():
    v = Visitor()
    v.send(frame(1, 1, 1, v.encoder.encode(HEAD)))
    for _ in range(2000):
        v.send(frame(9, 0, 1, b""))
    for _ in v.frames():  # until it is closed
        pass


for name, case in [(n[5:], f) for n, f in list(globals().items()) if n.startswith("case_")]:
    try:
        case()
        print("ok " + name, flush=True)
    except Exception as e:
        print("not ok %s: %s %s" % (name, type(e).__name__, e), flush=True)
