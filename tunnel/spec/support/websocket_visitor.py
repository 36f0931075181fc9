# A WebSocket visitor of python3-websockets: runs every case against a server that echoes as websocket_server.py does, one line each.
#   python3 websocket_visitor.py ws://127.0.0.1:8080/ws
import asyncio
import sys

import websockets


async def text(socket):
    await socket.send("hello wörld")
    assert await socket.recv() == "hello wörld"


async def binary(socket):
    data = bytes(i * 7 & 255 for i in range(1 << 20))
    await socket.send(data)
    assert await socket.recv() == data


async def fragments(socket):
    await socket.send(f"part {i}," for i in range(100))
    assert await socket.recv() == "".join(f"part {i}," for i in range(100))


async def ping(socket):
    await asyncio.wait_for(await socket.ping(b"are you there"), 20)


async def close_by_visitor(socket):
    await socket.close(4001, "that was it")
    assert socket.close_code == 4001, socket.close_code


async def close_by_backend(socket):
    await socket.send("close 4002")
    try:
        await socket.recv()
    except websockets.ConnectionClosed as err:
        assert (err.rcvd.code, err.rcvd.reason) == (4002, "as asked"), err
    else:
        raise AssertionError("it was not closed")


async def main():
    failed = 0
    for case in (text, binary, fragments, ping, close_by_visitor, close_by_backend):
        try:
            async with websockets.connect(sys.argv[1], max_size=2**26, open_timeout=20) as socket:
                await asyncio.wait_for(case(socket), 20)
            print("ok", case.__name__, flush=True)
        except Exception as err:
            failed += 1
            print("failed", case.__name__, repr(err), flush=True)
    print("failed" if failed else "done", flush=True)
    sys.exit(failed)


asyncio.run(main())
