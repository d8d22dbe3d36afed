#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
# Checked pseudo-random streams, both ways at a time.
#
#   stream.py serve PORT
#   stream.py run ADDRESS PORT SEED SECONDS     fails on the first byte that is wrong, missing or too many
#
# Every position of a stream has its byte: a block of prime length, shifted by the stream's seed. Each end sends for so many seconds, then how much
# that was, in eight bytes, then the end of the stream.
import ctypes
import os
import random
import signal
import socket
import sys
import threading
import time

BLOCK = 1000003
data = random.Random(4711).randbytes(BLOCK)
twice = memoryview(data + data)


class EarlyEnd(Exception):
    pass


def piece(seed, position, size):
    at = (seed * 7919 + position) % BLOCK
    return twice[at : at + size]


def send(sock, seed, seconds, rng):
    end = time.monotonic() + seconds
    position = 0
    while time.monotonic() < end:
        size = int(2 ** rng.uniform(0, 18))
        position += sock.send(piece(seed, position, size))
        if rng.random() < 0.02:
            time.sleep(rng.uniform(0, 0.01))
    sock.sendall(position.to_bytes(8, "big"))
    sock.shutdown(socket.SHUT_WR)
    return position


def receive(sock, seed, rng):
    position, last = 0, b""
    while True:
        got = sock.recv(int(2 ** rng.uniform(0, 19)))
        if not got:
            break
        got, last = (last + got)[:-8], (last + got)[-8:]
        if got != piece(seed, position, len(got)):
            raise SystemExit(f"wrong byte between {position} and {position + len(got)}")
        position += len(got)
    if last != position.to_bytes(8, "big"):
        raise EarlyEnd(f"the stream ends after {position} bytes, but not where it has to")
    return position


def both(sock, send_seed, receive_seed, seconds):
    result = {}

    def receiver():
        try:
            result["got"] = receive(sock, receive_seed, random.Random(receive_seed))
        except BaseException as e:
            result["error"] = e

    thread = threading.Thread(target=receiver)
    thread.start()
    try:
        result["sent"] = send(sock, send_seed, seconds, random.Random(send_seed))
    except OSError as e:
        result["broke"] = e
    thread.join()
    # As on any socket, the call that is told of a reset may be the other thread's: then this one sees an end.
    if "error" in result and not ("broke" in result and isinstance(result["error"], EarlyEnd)):
        raise result["error"]
    if "broke" in result:
        raise result["broke"]
    return result["sent"], result["got"]


def exactly(sock, n):
    got = b""
    while len(got) < n:
        more = sock.recv(n - len(got))
        if not more:
            raise SystemExit("end of stream too early")
        got += more
    return got


def number(sock):
    return int.from_bytes(exactly(sock, 8), "big")


# What lies unread in the kernel's buffers has to be read before the ring: not more than this program reads in a moment.
def small_buffers(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)


def served(sock):
    small_buffers(sock)
    try:
        seed, seconds = number(sock), number(sock)
        sent, got = both(sock, seed + 1, seed, seconds)
        print("sent", sent, "got", got, flush=True)
    except BaseException as e:
        print("failed:", e, flush=True)
    sock.close()


def serve(port):
    listener = socket.create_server(("", port))
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=served, args=(sock,), daemon=True).start()


def run(address, port, seed, seconds):
    sock = socket.create_connection((address, port))
    small_buffers(sock)
    sock.sendall(seed.to_bytes(8, "big") + seconds.to_bytes(8, "big"))
    sent, got = both(sock, seed, seed + 1, seconds)
    print("sent", sent, "got", got)
    sock.close()


# Shared memory as a PVH guest finds it after a move that nobody announced: all ones.
def lose_memory(number, frame):
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    with open("/proc/self/maps") as maps:
        lost = [line.split("-", 1) for line in maps if "memfd:rlm-region" in line]
    for start, rest in lost:
        begin = int(start, 16)
        size = int(rest.split()[0], 16) - begin
        # private, anonymous, fixed; readable and writable
        address = libc.mmap(begin, size, 3, 0x32, -1, 0)
        ctypes.memset(address, 0xFF, size)
    open(os.environ["LOST"], "w").close()


signal.signal(signal.SIGUSR1, lose_memory)
if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    run(sys.argv[2], *map(int, sys.argv[3:6]))
