"""The same service and cases with python3-grpcio: peer.py server [gzip] | peer.py client HOST:PORT [case...]"""
import json
import sys
import threading
import time

import grpc

UP, DOWN = [27182, 8, 1828, 45904], [31415, 9, 2653, 58979]
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def encode(wish, payload=0):
    return json.dumps(wish).encode() + b"\n" + b"p" * payload


def decode(message):
    line, payload = message.split(b"\n", 1)
    return json.loads(line), len(payload)


# The server.

state = {"cancelled": 0, "begun": 0}


def echo(context):
    for key, value in context.invocation_metadata():
        if key == "x-grpc-test-echo-initial":
            context.send_initial_metadata(((key, value),))
        elif key == "x-grpc-test-echo-trailing-bin":
            context.set_trailing_metadata(((key, value),))


def fail(context, status):
    context.set_code([c for c in grpc.StatusCode if c.value[0] == status["code"]][0])
    context.set_details(status["message"])


def count_cancelled():
    state["cancelled"] += 1


def expect_cancel(context):
    """This call ends by being cancelled; a generator that is not asked again would not see it."""
    if not context.add_callback(count_cancelled):
        count_cancelled()


def hold(context):
    while context.is_active():
        time.sleep(0.01)


def unary_call(request, context):
    wish, _ = decode(request)
    echo(context)
    if "status" in wish:
        fail(context, wish["status"])
        return b""
    return b"r" * wish.get("size", 0)


def streaming_input(requests, context):
    n = 0
    for m in requests:
        wish, payload = decode(m)
        n += payload
        if wish.get("hold"):
            expect_cancel(context)
            state["begun"] += 1
            hold(context)
    echo(context)
    return str(n).encode()


def streaming_output(request, context):
    echo(context)
    for size in decode(request)[0]["sizes"]:
        yield b"r" * size


def full_duplex(requests, context):
    echo(context)
    for m in requests:
        wish, _ = decode(m)
        if "status" in wish:
            fail(context, wish["status"])
            break
        if wish.get("hold"):
            expect_cancel(context)
        for size in wish.get("sizes", []):
            yield b"r" * size
        if wish.get("hold"):
            hold(context)


def serve(gzip):
    from concurrent import futures

    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=32), options=OPTIONS, compression=grpc.Compression.Gzip if gzip else None
    )
    handlers = {
        "EmptyCall": grpc.unary_unary_rpc_method_handler(lambda r, c: b""),
        "Stats": grpc.unary_unary_rpc_method_handler(lambda r, c: json.dumps(state).encode()),
        "UnaryCall": grpc.unary_unary_rpc_method_handler(unary_call),
        "StreamingInput": grpc.stream_unary_rpc_method_handler(streaming_input),
        "StreamingOutput": grpc.unary_stream_rpc_method_handler(streaming_output),
        "FullDuplex": grpc.stream_stream_rpc_method_handler(full_duplex),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print("ready %d" % port, flush=True)
    sys.stdin.read()
    server.stop(0)


# The client.


class Cases:
    def __init__(self, address, ca=None):
        def channel(**more):
            if ca:
                return grpc.secure_channel(address, grpc.ssl_channel_credentials(open(ca, "rb").read()), options=OPTIONS, **more)
            return grpc.insecure_channel(address, options=OPTIONS, **more)

        self.new = channel
        self.channel = channel()

    def unary(self, name, message, channel=None, **more):
        more.setdefault("timeout", 60)
        return (channel or self.channel).unary_unary("/echo.Test/" + name).with_call(message, **more)

    def duplex(self, messages, **more):
        return self.channel.stream_stream("/echo.Test/FullDuplex")(messages, **more)

    def stat(self, name):
        return json.loads(self.unary("Stats", b"")[0])[name]

    def until_more(self, name, before):
        end = time.monotonic() + 30
        while self.stat(name) <= before:
            assert time.monotonic() < end, "the server did not see it"
            time.sleep(0.02)

    def case_empty_unary(self):
        assert self.unary("EmptyCall", b"")[0] == b""

    def case_large_unary(self):
        assert len(self.unary("UnaryCall", encode({"size": 314159}, 271828))[0]) == 314159

    def case_client_streaming(self):
        call = self.channel.stream_unary("/echo.Test/StreamingInput")
        assert call((encode({}, n) for n in UP), timeout=60) == b"74922"

    def case_server_streaming(self):
        call = self.channel.unary_stream("/echo.Test/StreamingOutput")(encode({"sizes": DOWN}), timeout=60)
        assert [len(m) for m in call] == DOWN
        assert call.code() == grpc.StatusCode.OK

    def case_ping_pong(self):
        go = threading.Semaphore(1)

        def pings():
            for up, down in zip(UP, DOWN):
                go.acquire()
                yield encode({"sizes": [down]}, up)

        got = []
        call = self.duplex(pings(), timeout=60)
        for m in call:
            got.append(len(m))
            go.release()
        assert got == DOWN and call.code() == grpc.StatusCode.OK

    def case_empty_stream(self):
        call = self.duplex(iter(()), timeout=60)
        assert list(call) == [] and call.code() == grpc.StatusCode.OK

    def case_compressed(self):
        with self.new(compression=grpc.Compression.Gzip) as gzip:
            assert len(self.unary("UnaryCall", encode({"size": 314159}, 271828), channel=gzip)[0]) == 314159
            call = gzip.unary_stream("/echo.Test/StreamingOutput")(encode({"sizes": DOWN}), timeout=60)
            assert [len(m) for m in call] == DOWN

    def case_custom_metadata(self):
        binary = b"\xab\xab\xab\0\n\r"
        sent = (("x-grpc-test-echo-initial", "test_initial_metadata_value"), ("x-grpc-test-echo-trailing-bin", binary))

        def check(call):
            assert dict(call.initial_metadata())["x-grpc-test-echo-initial"] == "test_initial_metadata_value"
            assert dict(call.trailing_metadata())["x-grpc-test-echo-trailing-bin"] == binary

        check(self.unary("UnaryCall", encode({"size": 314159}, 271828), metadata=sent)[1])
        call = self.duplex(iter([encode({"sizes": [10]})]), timeout=60, metadata=sent)
        assert [len(m) for m in call] == [10]
        check(call)

    def fails(self, code, run, details=None):
        try:
            run()
        except grpc.RpcError as e:
            assert e.code() == code, e
            assert details is None or e.details() == details, repr(e.details())
        else:
            assert False, "it did not fail"

    def case_status_code_and_message(self):
        wish = encode({"status": {"code": 2, "message": "test status message"}})
        self.fails(grpc.StatusCode.UNKNOWN, lambda: self.unary("UnaryCall", wish), "test status message")
        self.fails(grpc.StatusCode.UNKNOWN, lambda: list(self.duplex(iter([wish]), timeout=60)), "test status message")

    def case_special_status_message(self):
        text = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
        self.fails(
            grpc.StatusCode.UNKNOWN, lambda: self.unary("UnaryCall", encode({"status": {"code": 2, "message": text}})), text
        )

    def case_unimplemented_method(self):
        self.fails(grpc.StatusCode.UNIMPLEMENTED, lambda: self.unary("Nope", b""))

    def case_unimplemented_service(self):
        self.fails(grpc.StatusCode.UNIMPLEMENTED, lambda: self.channel.unary_unary("/no.Such/Nope")(b"", timeout=60))

    def case_cancel_after_begin(self):
        begun, before, hold = self.stat("begun"), self.stat("cancelled"), threading.Event()

        def requests():
            yield encode({"hold": True}, 10)
            hold.wait(60)

        call = self.channel.stream_unary("/echo.Test/StreamingInput").future(requests())
        self.until_more("begun", begun)
        call.cancel()
        hold.set()
        self.fails(grpc.StatusCode.CANCELLED, lambda: call.code() == grpc.StatusCode.CANCELLED and (_ for _ in ()).throw(call))
        self.until_more("cancelled", before)

    def case_cancel_after_first_response(self):
        before, hold = self.stat("cancelled"), threading.Event()

        def requests():
            yield encode({"sizes": [31415], "hold": True}, 27182)
            hold.wait(60)

        call = self.duplex(requests())
        assert len(next(call)) == 31415
        call.cancel()
        hold.set()
        self.fails(grpc.StatusCode.CANCELLED, lambda: next(call))
        self.until_more("cancelled", before)

    def case_timeout_on_sleeping_server(self):
        hold = threading.Event()

        def requests():
            yield encode({}, 27182)  # is not answered
            hold.wait(60)

        self.fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: list(self.duplex(requests(), timeout=0.05)))
        hold.set()

    def case_many_at_once(self):
        call = self.channel.unary_unary("/echo.Test/UnaryCall")
        all = [call.future(encode({"size": i * 100}, i), timeout=60) for i in range(200)]
        assert [len(f.result()) for f in all] == [i * 100 for i in range(200)]


def client(address, wanted):
    import os

    cases, failed = Cases(address, os.environ.get("CA")), 0
    for name in [n[5:] for n in dir(Cases) if n.startswith("case_")]:
        if wanted and name not in wanted:
            continue
        try:
            getattr(cases, "case_" + name)()
            print("ok " + name, flush=True)
        except Exception as e:
            failed += 1
            print("not ok %s: %s" % (name, " ".join((type(e).__name__ + " " + str(e)).split())[:300]), flush=True)
    sys.exit(failed)


if sys.argv[1] == "server":
    serve("gzip" in sys.argv)
else:
    client(sys.argv[2], sys.argv[3:])
