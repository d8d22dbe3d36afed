# SPDX-License-Identifier: BSD-2-Clause
"""usage: http_load.py ADDRESS PORT THREADS STOP-FILE PATH=FILE...

Gets the paths over kept connections, in a random order, and compares each answer with the file, until STOP-FILE exists. A server that goes
away may close a connection on which no answer has begun (RFC 9112, 9.3.1): that request is made again on a new one. Nothing else may fail.
"""
import http.client
import os
import random
import sys
import threading
import time

address, port, threads, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
files = {}
for word in sys.argv[5:]:
    path, file = word.split("=")
    with open(file, "rb") as f:
        files[path] = f.read()

lock = threading.Lock()
answers = again = 0
problems = []


def get(connection, path):
    """The answer's body, or None when the connection was closed before it began."""
    try:
        connection.request("GET", path)
        response = connection.getresponse()
    except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
        return None
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: status {response.status}")
    return body


def work(seed):
    global answers, again
    chance = random.Random(seed)
    connection, fresh = http.client.HTTPConnection(address, port, timeout=20), True
    try:
        while not os.path.exists(stop):
            path = chance.choice(list(files))
            body = get(connection, path)
            if body is None:
                if fresh:
                    raise RuntimeError(f"{path}: a new connection was closed without an answer")
                connection.close()
                fresh = True
                with lock:
                    again += 1
                continue
            fresh = False
            if body != files[path]:
                raise RuntimeError(f"{path}: {len(body)} bytes, wrong ones")
            with lock:
                answers += 1
    except Exception as e:  # whatever it is, it is told
        problems.append(f"{type(e).__name__}: {e}")


start = time.monotonic()
workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
for problem in problems[:5]:
    print(problem, file=sys.stderr)
print(f"{answers / (time.monotonic() - start):.0f} req/s right")
print(answers, again, "answers, made again", file=sys.stderr)
sys.exit(bool(problems))
