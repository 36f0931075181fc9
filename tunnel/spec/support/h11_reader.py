"""Reads requests with h11 and says what it read, for http1_h11_test.c.

In: the length as a decimal line, then so many bytes; again and again. Out, for each: one line, either "no <why>" or
"yes <method> <target> <hex of the fields, sorted> <hex of the body> <hex of the trailers, sorted>".
"""
import sys

import h11


def fields_of(headers):
    return "".join(sorted("%s: %s\n" % (n.decode("latin1"), v.decode("latin1")) for n, v in headers)).encode("latin1").hex() or "-"


def read(data):
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    request, body, trailers = None, b"", None
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            trailers = event.headers
            break
        else:
            return "no end: %r" % (event,)
    if connection.trailing_data != (b"", False):
        return "no: bytes are left over"
    if request.http_version != b"1.1":
        return "no: version"
    return "yes %s %s %s %s %s" % (
        request.method.decode(), request.target.decode("latin1"), fields_of(request.headers), body.hex() or "-", fields_of(trailers))


def main():
    if sys.argv[1:] == ["version"]:
        print(h11.__version__)
        return
    while True:
        line = sys.stdin.buffer.readline()
        if not line:
            return
        data = sys.stdin.buffer.read(int(line))
        try:
            answer = read(data)
        except h11.RemoteProtocolError as e:
            answer = "no: %s" % str(e).replace("\n", " ")
        print(answer)


main()
