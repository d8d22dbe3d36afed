#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Runs suites of CPython's and writes what became of their tests, as JSON.

usage: cpython_suite.py RESULT SUITE[:PATTERN,...] [SUITE...] [--bare FILE]

Suites named together run at the same time. A test that hangs is recorded, and its suite is run again without it, so that it hides no other.
--bare: the result of the run without librlm: what hung there is not tried again.
"""
import argparse
import concurrent.futures
import json
import os
import re
import selectors
import signal
import subprocess
import sys

QUIET_SECONDS = 120  # no test that ends is silent for longer, on a busy machine too
HANGS_MOST = 5

TEST_STARTS = re.compile(rb"^(?:\w+ )?\(?((?:test|__main__)\.[\w.]+)\)? ?\.\.\. |^\w+ \((test\.[\w.]+)\)", re.M)


def run_once(suite, patterns, without):
    """(output, test at which it went silent or None, exit status)"""
    command = [sys.executable, "-u", "-m", "test", "-v", "-u", "network,-urlfetch"]
    for pattern in patterns:
        command += ["-m", pattern]
    for name in without:
        command += ["-i", name]
    process = subprocess.Popen(command + ["test_" + suite], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True)
    output = bytearray()
    hung = None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(QUIET_SECONDS):
                names = TEST_STARTS.findall(output)
                hung = (names[-1][0] or names[-1][1]).decode() if names else "before its first test"
                os.killpg(process.pid, signal.SIGKILL)
                break
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                break
            output += piece
    return output.decode(errors="replace"), hung, process.wait()


def run_suite(name, bare):
    suite, _, patterns = name.partition(":")
    known = [test for test in bare.get("hung", []) if test.startswith(f"test.test_{suite}.")]
    hung, log = list(known), ""
    while True:
        output, silent, status = run_once(suite, patterns.split(",") if patterns else [], hung)
        log += output
        if not silent:
            break
        hung.append(silent)
        log += f"\n*** {silent} hangs\n"
        if len(hung) - len(known) > HANGS_MOST:
            break
    failed = set(re.findall(r"^(?:ERROR|FAIL): (.*)$", output, re.M))
    ran = sum(int(n) for n in re.findall(r"^Ran (\d+) tests?", output, re.M))
    if silent or not ran or (status and not failed):
        failed.add(f"test_{suite} ended with status {status} after {ran} tests")
    return {"ran": ran, "skipped": sum(int(n) for n in re.findall(r"skipped=(\d+)", output)), "failed": sorted(failed), "hung": hung}, log


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("result")
    parser.add_argument("suite", nargs="+")
    parser.add_argument("--bare")
    options = parser.parse_args()
    bare = {}
    if options.bare:
        with open(options.bare) as f:
            bare = json.load(f)
    total = {"ran": 0, "skipped": 0, "failed": [], "hung": []}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for one, log in pool.map(lambda name: run_suite(name, bare), options.suite):
            sys.stdout.write(log)
            for key, value in one.items():
                total[key] += value
    with open(options.result, "w") as f:
        json.dump(total, f, indent=1)


main()
