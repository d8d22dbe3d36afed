#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Runs the differential tests in every carrier state and prints a table, program x state.

usage: run.py [--build DIR] [--states ring,flap,...] [--jobs N] [PROGRAM...]

A program that does not pass is run again test by test, so that a test that hangs or crashes hides no other; these runs
go into the report below the table. Exit status 0: everything passed.
"""
import argparse
import concurrent.futures
import ctypes
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

STATES = ["bare", "plain", "ring", "ring-small", "promote-mid", "demote-mid", "flap"]
PROGRAM_SECONDS = 60
TEST_SECONDS = 25

# Ring bytes after which a direction leaves the ring: few for programs that exchange words, more where streams are moved.
SWITCH_AFTER = {"demote-mid": 13, "flap": 7}
SWITCH_AFTER_BULK = {"demote-mid": 300007, "flap": 10007}
BULK = {"test_bulk", "test_bulk_fortified", "test_full", "test_threads", "test_sendfile"}

# Programs that see that TCP takes what a full ring does not. In others a ring that is full stays full.
CAPACITY = {"test_capacity"}

here = os.path.dirname(os.path.abspath(__file__))


libc = ctypes.CDLL(None)


def die_with_runner():
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Broker:
    """An rlmd of its own for one run of one program."""

    def __init__(self, build, directory, ring_size):
        self.socket = os.path.join(directory, "rlmd.sock")
        config = os.path.join(directory, "rlmd.conf")
        with open(config, "w") as f:
            if ring_size:
                f.write(f"ring_size = {ring_size}\n")
        self.log = open(os.path.join(directory, "rlmd.log"), "w+")
        self.process = subprocess.Popen([os.path.join(build, "rlmd"), "-s", self.socket, "-c", config], stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log, preexec_fn=die_with_runner)
        deadline = time.monotonic() + 10
        while not os.path.exists(self.socket):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("rlmd does not start: " + self.text())
            time.sleep(0.01)

    def text(self):
        self.log.seek(0)
        return self.log.read()[-2000:]

    def stop(self):
        """None, or what is wrong with the way it ended."""
        if self.process.poll() is not None:
            return f"rlmd died with status {self.process.returncode}: {self.text()}"
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "rlmd does not end on SIGTERM"
        return f"rlmd ended with status {status}: {self.text()}" if status else None


def sanitizer_runtime(library):
    """A library that was built with a sanitizer needs its runtime in front of it."""
    out = subprocess.run(["ldd", library], capture_output=True, text=True).stdout
    return re.findall(r"lib[at]san\.so\S* => (\S+)", out)


def run_once(options, program, state, test, seconds):
    """(passed, names of failed tests, output)"""
    path = os.path.join(options.build, "tests/preload", program)
    env = {k: v for k, v in os.environ.items() if not k.startswith("RLM_") or k == "RLM_LOG"}
    env["RLM_TEST_CARRIER"] = state
    directory = tempfile.mkdtemp(prefix="rlm-test.")
    env["RLM_TEST_DIR"] = directory
    broker = None
    try:
        if state != "bare":
            library = os.path.join(options.build, "librlm.so")
            env["LD_PRELOAD"] = " ".join(sanitizer_runtime(library) + [library])
            env["RLM_SOCKET"] = os.path.join(directory, "rlmd.sock")
            env["RLM_PROMOTE"] = "eager"
            env["RLM_TEST_FULL"] = "50" if program in CAPACITY else "600000"
        if state not in ("bare", "plain"):
            broker = Broker(options.build, directory, 4096 if state == "ring-small" else 0)
        after = (SWITCH_AFTER_BULK if program in BULK else SWITCH_AFTER).get(state)
        if after:
            env["RLM_TEST_DEMOTE_AFTER" if state == "demote-mid" else "RLM_TEST_FLAP"] = str(after)
        output = tempfile.TemporaryFile("w+", errors="replace")
        process = subprocess.Popen([path] + ([test] if test else []), env=env, stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=output, cwd=directory, start_new_session=True,
                                   preexec_fn=die_with_runner)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        # What it forked and left behind goes with it.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        output.seek(0)
        text = output.read()
        if status is None:
            text += f"\nno end after {seconds} s\n"
        elif status < 0:
            text += f"\nkilled by {signal.Signals(-status).name}\n"
        failed = re.findall(r"^\[  FAILED  \] (\S+)$", text, re.M)
        if status != 0 and not failed:
            failed = [re.findall(r"^\[ RUN      \] (\S+)$", text, re.M)[-1:] or ["?"]][0]
        if broker:
            wrong = broker.stop()
            broker = None
            if wrong:
                failed.append("rlmd")
                text += wrong + "\n"
        return status == 0 and not failed, sorted(set(failed)), text
    finally:
        if broker:
            broker.stop()
        shutil.rmtree(directory, ignore_errors=True)


def list_tests(options, program):
    path = os.path.join(options.build, "tests/preload", program)
    return subprocess.run([path, "--list"], capture_output=True, text=True, check=True).stdout.split()


def excerpt(text, test=None):
    """What the run said about one test, or at its end."""
    lines, inside = [], test is None
    for line in text.splitlines():
        if test and line.startswith("[ RUN "):
            inside = line.split()[-1] == test
        if inside and not re.match(r"^\[( RUN |       OK |===|  PASSED |  FAILED |  ERROR )| \d+ FAILED TEST", line):
            lines.append("        " + line)
    return "\n".join(l for l in lines[-12:] if l.strip())


def read_known():
    """What is known to fail, as {(state, program, test)}; see the file itself."""
    with open(os.path.join(here, "known-failures")) as f:
        lines = [line.split("#")[0].split() for line in f]
    return {tuple(line) for line in lines if line}


def is_known(known, state, program, test):
    return (state, program, test.split("/")[0]) in known


def run_one_by_one(options, program, state, tests):
    good, report = 0, []
    for test in tests:
        if is_known(options.known, state, program, test):
            continue
        passed, _, text = run_once(options, program, state, test, TEST_SECONDS)
        if not passed:
            passed, _, again = run_once(options, program, state, test, TEST_SECONDS)
            report.append(f"  {state:<12} {program}: {test}{' (passes when run again)' if passed else ''}\n{excerpt(text)}")
        good += passed
    known = sum(is_known(options.known, state, program, test) for test in tests)
    return good, len(tests) - known - good, "\n".join(report)


def run_program(options, program, state):
    """(passed count, failed count, report)"""
    tests = list_tests(options, program)
    if any(is_known(options.known, state, program, test) for test in tests):
        return run_one_by_one(options, program, state, tests)
    passed, failed, text = run_once(options, program, state, None, PROGRAM_SECONDS)
    if passed:
        return len(tests), 0, ""
    done = set(re.findall(r"^\[       OK \] (\S+)$", text, re.M)) - set(failed)
    report, bad, unsteady = [], 0, False
    for test in tests:
        if options.quick and test in done:
            continue
        passed, _, alone = run_once(options, program, state, test, TEST_SECONDS)
        if not passed:
            bad += 1
            report.append(f"  {state:<12} {program}: {test}\n{excerpt(alone)}")
        elif test in failed:
            # Unsteady: shown, and to be looked into, but no reason to stop.
            unsteady = True
            report.append(f"  {state:<12} {program}: {test} (passes alone)\n{excerpt(text, test)}")
    if not bad and not unsteady:
        bad = 1
        report.append(f"  {state:<12} {program}: fails as a whole, each test passes alone: {' '.join(failed)}\n{excerpt(text)}")
    return len(tests) - bad, bad, "\n".join(report)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=os.path.join(here, "../../build"))
    parser.add_argument("--states", default=",".join(STATES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--all", action="store_true", help="also run what is known to fail")
    parser.add_argument("--quick", action="store_true", help="do not rerun the tests that passed")
    parser.add_argument("programs", nargs="*")
    options = parser.parse_args()
    options.build = os.path.abspath(options.build)
    options.known = set() if options.all else read_known()
    states = options.states.split(",")
    for state in states:
        if state not in STATES:
            parser.error(f"no such state: {state}; there are {', '.join(STATES)}")
    known = sorted(os.path.basename(p) for p in glob.glob(os.path.join(options.build, "tests/preload/test_*")))
    programs = options.programs or known
    for program in programs:
        if program not in known:
            parser.error(f"no such program: {program}")
    if states != ["bare"]:
        for needed in ["librlm.so"] + (["rlmd"] if set(states) - {"bare", "plain"} else []):
            if not os.path.exists(os.path.join(options.build, needed)):
                sys.exit(f"{options.build}/{needed} is not built")

    width = max(len(p) for p in programs)
    print(f"{'':<{width}} " + " ".join(f"{s:>12}" for s in states), flush=True)
    totals, reports = [0, 0], []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        rows = [[pool.submit(run_program, options, p, s) for s in states] for p in programs]
        for program, row in zip(programs, rows):
            cells = []
            for future in row:
                good, bad, report = future.result()
                totals[0] += good
                totals[1] += bad
                if report:
                    reports.append(report)
                cells.append(f"{bad} of {good + bad} bad" if bad else f"{good} ok" if good else "-")
            print(f"{program:<{width}} " + " ".join(f"{c:>12}" for c in cells), flush=True)
    if reports:
        print("\nfailed, now or only now and then:")
        print("\n".join(reports))
    for state in states:
        count = sum(known[0] == state for known in options.known)
        if count:
            print(f"not run in state {state}: {count} tests that are known to fail, see known-failures")
    print(f"{totals[0]} passed, {totals[1]} failed")
    return 1 if totals[1] else 0


if __name__ == "__main__":
    sys.exit(main())
