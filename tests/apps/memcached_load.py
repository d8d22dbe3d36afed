# SPDX-License-Identifier: BSD-2-Clause
"""Load for memcached with checked answers: eight threads, a blocking connection each, values from 1 byte to 1 MB.

Usage: memcached_load.py ADDRESS PORT"""
import random
import socket
import sys
import threading
import time

THREADS = 8
ROUNDS = 400
failures = []


def value_of(key, size):
    return random.Random(f"{key}/{size}").randbytes(size)


class Client:
    def __init__(self, address):
        self.sock = socket.create_connection(address, timeout=20)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.sock.makefile("rb")

    def line(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise AssertionError(f"connection ended in {line!r}")
        return line[:-2]

    def set(self, key, value):
        self.sock.sendall(b"set %s 0 0 %d\r\n" % (key, len(value)))
        self.sock.sendall(value + b"\r\n")
        answer = self.line()
        assert answer == b"STORED", answer

    def get(self, keys):
        found = {}
        self.sock.sendall(b"get " + b" ".join(keys) + b"\r\n")
        while True:
            line = self.line()
            if line == b"END":
                return found
            word, key, _, size = line.split()
            assert word == b"VALUE", line
            found[key] = self.file.read(int(size))
            assert self.file.read(2) == b"\r\n"


def worker(number, address, counts):
    rng = random.Random(number)
    client = Client(address)
    sizes = {}
    for turn in range(ROUNDS):
        key = b"k%d.%d" % (number, rng.randrange(20))
        if key not in sizes or rng.random() < 0.3:
            sizes[key] = rng.choice((1, 10, 100, 1000, 10000)) * rng.randrange(1, 10)
            if turn % 100 == 0:
                sizes[key] = 1_000_000
            client.set(key, value_of(key, sizes[key]))
        keys = rng.sample(sorted(sizes), min(len(sizes), rng.randrange(1, 6)))
        found = client.get(keys)
        for asked in keys:
            if found.get(asked) != value_of(asked, sizes[asked]):
                raise AssertionError(f"thread {number}, turn {turn}: wrong value for {asked!r}")
        counts[number] += 1 + len(keys)


def guarded(number, address, counts):
    try:
        worker(number, address, counts)
    except Exception as error:  # any of them fails the run
        failures.append(f"thread {number}: {error!r}")


def main():
    address = (sys.argv[1], int(sys.argv[2]))
    counts = [0] * THREADS
    start = time.monotonic()
    threads = [threading.Thread(target=guarded, args=(n, address, counts)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit("; ".join(failures))
    print(f"{sum(counts) / (time.monotonic() - start):.0f} op/s")


main()
