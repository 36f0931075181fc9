"""WebSockets by extended CONNECT (RFC 8441), several on one connection of HTTP/2 with TLS, made of python3-h2 and python3-wsproto:
h2_websocket.py HOST:PORT. Prints "ok CASE" or "not ok CASE: why"."""
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

HOST, PORT = sys.argv[1].split(":")


class Visitor:
    def __init__(self):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        self.s = context.wrap_socket(socket.create_connection((HOST, int(PORT)), timeout=60))
        assert self.s.selected_alpn_protocol() == "h2"
        self.c = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.c.initiate_connection()
        self.status, self.data, self.ended, self.reset, self.settings = {}, {}, set(), {}, False
        self.flush()
        self.until(lambda: self.settings)

    def flush(self):
        self.s.sendall(self.c.data_to_send())

    def step(self):
        data = self.s.recv(65536)
        assert data, "the connection ended"
        for e in self.c.receive_data(data):
            if isinstance(e, h2.events.RemoteSettingsChanged):
                self.settings = True
            elif isinstance(e, h2.events.ResponseReceived):
                self.status[e.stream_id] = dict(e.headers)[":status"]
            elif isinstance(e, h2.events.DataReceived):
                self.data[e.stream_id] = self.data.get(e.stream_id, b"") + e.data
                self.c.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
            elif isinstance(e, h2.events.StreamEnded):
                self.ended.add(e.stream_id)
            elif isinstance(e, h2.events.StreamReset):
                self.reset[e.stream_id] = e.error_code
        self.flush()

    def until(self, condition):
        while not condition():
            self.step()

    def begin(self, fields, end=False):
        stream = self.c.get_next_available_stream_id()
        self.c.send_headers(stream, fields, end_stream=end)
        self.flush()
        return stream

    def send(self, stream, data, end=False):
        while data:
            self.until(lambda: self.c.local_flow_control_window(stream) > 0)
            n = min(len(data), self.c.local_flow_control_window(stream), self.c.max_outbound_frame_size)
            self.c.send_data(stream, data[:n])
            data = data[n:]
            self.flush()
        if end:
            self.c.end_stream(stream)
            self.flush()

    def get(self, path):
        stream = self.begin([(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)], True)
        self.until(lambda: stream in self.ended)
        return self.status[stream], self.data.get(stream, b"")


class WebSocket:
    def __init__(self, visitor, path="/ws"):
        self.v, self.ws, self.events = visitor, Connection(ConnectionType.CLIENT), []
        self.stream = visitor.begin(
            [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
            + [("sec-websocket-version", "13"), ("origin", "https://localhost")]
        )
        visitor.until(lambda: self.stream in visitor.status or self.stream in visitor.reset)

    def send(self, event):
        self.v.send(self.stream, self.ws.send(event))

    def next(self, kind):
        """The next event of a kind; of messages: all of it."""
        text = b"" if kind is BytesMessage else ""
        while True:
            while self.events:
                e = self.events.pop(0)
                if isinstance(e, Ping):
                    self.send(e.response())
                if isinstance(e, kind):
                    if kind not in (BytesMessage, TextMessage):
                        return e
                    text += bytes(e.data) if kind is BytesMessage else e.data
                    if e.message_finished:
                        return text
            self.v.until(lambda: self.v.data.get(self.stream) or self.stream in self.v.ended)
            assert self.v.data.get(self.stream), "it ended"
            self.ws.receive_data(self.v.data.pop(self.stream))
            self.events.extend(self.ws.events())


def case_settings(v):
    assert v.c.remote_settings[h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL] == 1


def case_text(v):
    w = WebSocket(v)
    assert v.status[w.stream] == "200"
    w.send(TextMessage("hello \u263a"))
    assert w.next(TextMessage) == "hello \u263a"


def case_binary_in_fragments(v):
    w, data = WebSocket(v), bytes(range(256)) * 2000
    for i in range(0, len(data), 100000):
        w.send(BytesMessage(data[i : i + 100000], message_finished=i + 100000 >= len(data)))
    assert w.next(BytesMessage) == data


def case_ping(v):
    w = WebSocket(v)
    w.send(Ping(b"are you there"))
    assert w.next(Pong).payload == b"are you there"


def case_close_by_the_backend(v):
    w = WebSocket(v)
    w.send(TextMessage("close 4001"))
    e = w.next(CloseConnection)
    assert (e.code, e.reason) == (4001, "as asked")
    w.send(e.response())
    v.send(w.stream, b"", end=True)
    v.until(lambda: w.stream in v.ended)


def case_close_by_us(v):
    w = WebSocket(v)
    w.send(CloseConnection(1000, "bye"))
    assert w.next(CloseConnection).code == 1000
    v.send(w.stream, b"", end=True)
    v.until(lambda: w.stream in v.ended)


def case_a_backend_that_breaks(v):
    w = WebSocket(v)
    w.send(TextMessage("terminate"))
    v.until(lambda: w.stream in v.ended or w.stream in v.reset)


def case_many_beside_requests(v):
    sockets = [WebSocket(v) for _ in range(20)]
    for i, w in enumerate(sockets):
        w.send(TextMessage("number %d" % i))
        assert v.get("/hello") == ("200", b"hello")
    for i, w in enumerate(sockets):
        assert w.next(TextMessage) == "number %d" % i


def case_refused(v):
    w = WebSocket(v, "/hello")
    assert v.status[w.stream] not in ("200", "101")


visitor = Visitor()
for name, case in [(n[5:], f) for n, f in list(globals().items()) if n.startswith("case_")]:
    try:
        case(visitor)
        print("ok " + name, flush=True)
    except Exception as e:
        print("not ok %s: %s %s" % (name, type(e).__name__, e), flush=True)
