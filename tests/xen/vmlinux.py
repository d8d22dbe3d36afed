#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""vmlinux.py BZIMAGE OUT: takes the kernel proper, an ELF file, out of a bzImage. Booting it saves the emulator the decompression."""
import lzma
import struct
import subprocess
import sys
import zlib

SETUP_SECTORS = 0x1F1  # offsets in the boot protocol's header
PAYLOAD = 0x248

DECOMPRESSORS = {
    b"\xfd7zXZ\0": lambda data: lzma.LZMADecompressor().decompress(data),
    b"\x1f\x8b": lambda data: zlib.decompressobj(31).decompress(data),
    b"\x02\x21\x4c\x18": lambda data: piped(["lz4", "-dc"], data[:-4]),
    b"\x28\xb5\x2f\xfd": lambda data: piped(["zstd", "-dc"], data[:-4]),
}


def piped(command, data):
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def main(source, target):
    with open(source, "rb") as file:
        image = file.read()
    offset, length = struct.unpack_from("<II", image, PAYLOAD)
    start = ((image[SETUP_SECTORS] or 4) + 1) * 512 + offset
    payload = image[start : start + length]
    for magic, decompress in DECOMPRESSORS.items():
        if payload.startswith(magic):
            kernel = decompress(payload)
            break
    else:
        sys.exit(f"{source}: unknown compression {payload[:6].hex()}")
    if not kernel.startswith(b"\x7fELF"):
        sys.exit(f"{source}: no ELF file in it")
    with open(target, "wb") as file:
        file.write(kernel)


if __name__ == "__main__":
    main(*sys.argv[1:])
