# TCP of several habits, by the first line: says "ready PORT", ends with its standard input.
#   "sum\n": reads until the other side's end, then says how many bytes came, and ends
#   "echo\n": sends back what comes, until the end
#   "break\n": says "x" and breaks the connection (RST)
#   "source N\n": sends N bytes and ends; "deaf\n": reads nothing more
import asyncio
import socket
import struct
import sys


async def serve(reader, writer):
    try:
        words = (await reader.readline()).decode().split()
        if words[0] == "sum":
            n = 0
            while data := await reader.read(65536):
                n += len(data)
            writer.write(str(n).encode())
        elif words[0] == "echo":
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        elif words[0] == "break":
            writer.write(b"x")
            await writer.drain()
            await reader.read(1)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return
        elif words[0] == "source":
            left = int(words[1])
            while left > 0:
                n = min(left, 65536)
                writer.write(b"s" * n)
                await writer.drain()
                left -= n
        elif words[0] == "deaf":
            await asyncio.sleep(3600)
        writer.close()
    except (ConnectionError, IndexError):
        writer.close()


async def main():
    if len(sys.argv) > 1:
        server = await asyncio.start_unix_server(serve, sys.argv[1])
        print("ready", sys.argv[1], flush=True)
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        print("ready", server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
