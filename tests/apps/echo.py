# SPDX-License-Identifier: BSD-2-Clause
"""An asyncio echo server and clients that check every byte of what comes back, then the end of stream.

Usage: echo.py server|asyncio|blocking|selector ADDRESS PORT
       echo.py hold ADDRESS PORT      echoes 1 MB, says "ok", keeps its connection open until it is killed"""
import asyncio
import random
import selectors
import socket
import sys
import threading
import time

CONNECTIONS = 8
BYTES = 24_000_000


def payload(number):
    return random.Random(number).randbytes(BYTES)


def chunks(number, data):
    """Cuts data into messages of random sizes, most of them small, a few large."""
    rng = random.Random(f"cut {number}")
    at = 0
    while at < len(data):
        size = int(2 ** rng.uniform(0, 18))
        yield data[at : at + size]
        at += size


class Checker:
    """Takes what arrives, in any portions, and compares it with what was sent."""

    def __init__(self, number, want):
        self.number = number
        self.want = want
        self.at = 0

    def feed(self, data):
        if self.want[self.at : self.at + len(data)] != data:
            for i, byte in enumerate(data):
                if self.at + i >= len(self.want) or self.want[self.at + i] != byte:
                    sys.exit(f"connection {self.number}: wrong byte at {self.at + i} of {len(self.want)}")
        self.at += len(data)

    def end(self):
        if self.at != len(self.want):
            sys.exit(f"connection {self.number}: end of stream at {self.at} of {len(self.want)}")


async def serve(address):
    async def echo(reader, writer):
        while data := await reader.read(100_000):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, *address)
    await server.serve_forever()


async def asyncio_one(number, address):
    data = payload(number)
    check = Checker(number, data)
    reader, writer = await asyncio.open_connection(*address)

    async def send():
        for chunk in chunks(number, data):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    while got := await reader.read(65536):
        check.feed(got)
    await sending
    check.end()
    writer.close()


async def asyncio_all(address):
    await asyncio.gather(*(asyncio_one(n, address) for n in range(CONNECTIONS)))


def blocking_one(number, address, done):
    data = payload(number)
    check = Checker(number, data)
    sock = socket.create_connection(address)

    def send():
        for chunk in chunks(number, data):
            sock.sendall(chunk)
        sock.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    while got := sock.recv(65536):
        check.feed(got)
    sender.join()
    check.end()
    done.append(number)


def blocking_all(address):
    done = []
    threads = [threading.Thread(target=blocking_one, args=(n, address, done), daemon=True) for n in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(done) != CONNECTIONS:
        sys.exit(f"{CONNECTIONS - len(done)} connections failed")


def selector_all(address):
    poll = selectors.PollSelector()
    for number in range(CONNECTIONS):
        data = payload(number)
        sock = socket.create_connection(address)
        sock.setblocking(False)
        state = {"check": Checker(number, data), "cut": chunks(number, data), "left": memoryview(b"")}
        poll.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, state)
    while poll.get_map():
        for key, events in poll.select(30) or sys.exit("nothing ready for 30 s"):
            if events & selectors.EVENT_WRITE:
                selector_send(poll, key)
            if events & selectors.EVENT_READ:
                selector_receive(poll, key)


def selector_send(poll, key):
    state = key.data
    if not state["left"]:
        state["left"] = memoryview(next(state["cut"], b""))
    if not state["left"]:
        key.fileobj.shutdown(socket.SHUT_WR)
        poll.modify(key.fileobj, selectors.EVENT_READ, state)
        return
    try:
        state["left"] = state["left"][key.fileobj.send(state["left"]) :]
    except BlockingIOError:
        pass


def selector_receive(poll, key):
    try:
        got = key.fileobj.recv(30_000)
    except BlockingIOError:
        return
    if got:
        key.data["check"].feed(got)
        return
    key.data["check"].end()
    poll.unregister(key.fileobj)
    key.fileobj.close()


def hold(address):
    data = payload(0)[:1_000_000]
    check = Checker(0, data)
    sock = socket.create_connection(address)
    for chunk in chunks(0, data):
        sock.sendall(chunk)
        end = check.at + len(chunk)
        while check.at < end:
            check.feed(sock.recv(65536) or sys.exit(f"end of stream at {check.at}"))
    print("ok", flush=True)
    while True:
        sock.sendall(b"x")
        if sock.recv(1) != b"x":
            sys.exit("wrong byte while holding")
        time.sleep(0.05)


def main():
    what, address = sys.argv[1], (sys.argv[2], int(sys.argv[3]))
    start = time.monotonic()
    if what == "server":
        asyncio.run(serve(address))
    elif what == "asyncio":
        asyncio.run(asyncio_all(address))
    elif what == "hold":
        hold(address)
    else:
        {"blocking": blocking_all, "selector": selector_all}[what](address)
    print(f"{2 * CONNECTIONS * BYTES / 1e6 / (time.monotonic() - start):.0f} MB/s right")


main()
