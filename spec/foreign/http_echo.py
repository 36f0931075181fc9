"""An HTTP/3 server with aioquic: `http_echo.py PORT CERT KEY` sends every request's body back, and the method, path and
trailers of it in fields of the answer and in trailers."""

import asyncio
import sys

from aioquic.asyncio import serve
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated


class Echo(QuicConnectionProtocol):
    http = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.requests = {}

    def answer(self, stream, data, ended):
        request = self.requests[stream]
        if not request["begun"]:
            request["begun"] = True
            head = dict(request["head"])
            self.http.send_headers(
                stream,
                [(b":status", b"200"), (b"x-method", head[b":method"]), (b"x-path", head[b":path"])],
            )
        if data:
            self.http.send_data(stream, data, False)
        if ended:
            self.http.send_headers(stream, [(b"x-trailers", b"yes")] + request["trailers"], True)
            del self.requests[stream]

    def quic_event_received(self, event):
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self._quic)
        if self.http is None:
            return
        for each in self.http.handle_event(event):
            if isinstance(each, HeadersReceived):
                known = self.requests.get(each.stream_id)
                if known is None:
                    self.requests[each.stream_id] = {"head": each.headers, "trailers": [], "begun": False}
                else:
                    known["trailers"] = list(each.headers)
                if each.stream_ended:
                    self.answer(each.stream_id, b"", True)
            elif isinstance(each, DataReceived):
                self.answer(each.stream_id, each.data, each.stream_ended)
        self.transmit()


async def main(port, cert, key):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN, max_data=1 << 24, max_stream_data=1 << 22)
    configuration.load_cert_chain(cert, key)
    await serve("127.0.0.1", port, configuration=configuration, create_protocol=Echo)
    print("ready", flush=True)
    await asyncio.Future()


asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
