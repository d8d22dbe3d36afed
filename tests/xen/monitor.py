#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""monitor.py SOCKET COMMAND...: gives commands to QEMU's monitor, prints what it answers."""
import socket
import sys

PROMPT = b"(qemu) "


def answer(connection):
    data = b""
    while not data.endswith(PROMPT):
        more = connection.recv(65536)
        if not more:
            break
        data += more
    return data


with socket.socket(socket.AF_UNIX) as monitor:
    monitor.connect(sys.argv[1])
    answer(monitor)
    for command in sys.argv[2:]:
        monitor.sendall(command.encode() + b"\n")
        # The first line is the command again, typed letter by letter.
        print(answer(monitor).removesuffix(PROMPT).decode(errors="replace").replace("\r", "").partition("\n")[2], end="")
