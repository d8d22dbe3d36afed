#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""on.py [-w SECONDS] [-t SECONDS] PORT SCRIPT: runs a shell script in a guest of the test bed whose agent is at 127.0.0.1:PORT, prints its output
as it comes, and exits with its status. SCRIPT - is read from stdin. -w: first wait until the agent answers. -t: give up after that time."""
import argparse
import re
import socket
import sys
import time

STATUS = re.compile(rb"\n@status (\d+)\n$")


def run(port, script, timeout, out):
    """Exit status; raises OSError when the guest does not answer or ends in the middle."""
    tail = b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(script.encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65536):
            # The status line may come in pieces: keep back what could belong to it.
            tail += data
            keep = max(len(tail) - 32, 0)
            out(tail[:keep])
            tail = tail[keep:]
            # socat, which serves the agent, misses its end now and then.
            if STATUS.search(tail):
                break
    found = STATUS.search(tail)
    out(tail[: found.start()] if found else tail)
    if not found:
        raise ConnectionError("no status from the guest")
    return int(found[1])


def wait(port, seconds):
    end = time.monotonic() + seconds
    while True:
        try:
            return run(port, "true", 60, lambda data: None)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-w", type=float)
    parser.add_argument("-t", type=float, default=300)
    parser.add_argument("port", type=int)
    parser.add_argument("script")
    arguments = parser.parse_args()

    def out(data):
        sys.stdout.buffer.write(data)
        sys.stdout.flush()

    try:
        if arguments.w:
            wait(arguments.port, arguments.w)
        script = sys.stdin.read() if arguments.script == "-" else arguments.script
        sys.exit(run(arguments.port, script, arguments.t, out))
    except OSError as error:
        sys.exit(f"on.py: port {arguments.port}: {error}")


if __name__ == "__main__":
    main()
