# An echo server of python3-websockets: says "ready PORT", ends with its standard input.
import asyncio
import sys

import websockets


async def echo(socket, path=None):
    try:
        async for message in socket:
            if isinstance(message, str) and message.startswith("close "):
                await socket.close(int(message[6:]), "as asked")
            elif isinstance(message, str) and message == "ping":
                await (await socket.ping(b"are you there"))
                await socket.send("pong came")
            else:
                await socket.send(message)
    except websockets.ConnectionClosed:
        pass


async def main():
    server = await websockets.serve(echo, "127.0.0.1", 0, max_size=2**26, ping_interval=None)
    print("ready", server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
