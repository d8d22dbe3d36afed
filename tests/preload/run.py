#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Runs the differential tests in every carrier state and prints a table, program x state.

usage: run.py [--build DIR] [--states ring,flap,...] [--no-waitv] [--jobs N] [PROGRAM...]

What does not pass, or is not reached, runs again at the end, one test at a time and with nothing beside; this decides, and the
report below the table tells both. Exit status 0: everything passed.
"""
import argparse
import concurrent.futures
import ctypes
import errno
import glob
import os
import re
import shutil
import signal
import struct
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

# Programs that see that TCP takes what a full ring does not, or count on it, or find out about a dead peer: milliseconds until then. In others a
# full ring stays full.
FULL = {"test_capacity": 50, "test_fork": 50, "test_hostile": 50, "test_relief": 1000}

here = os.path.dirname(os.path.abspath(__file__))


libc = ctypes.CDLL(None, use_errno=True)


def die_with_runner():
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def forbid_waitv():
    """As the filters of containers that are older than futex_waitv(2): ENOSYS, everything else is allowed."""
    load, jump, ret, number = 0x20, 0x15, 0x06, 449
    steps = [(load, 0, 0, 0), (jump, 0, 1, number), (ret, 0, 0, 0x00050000 | errno.ENOSYS), (ret, 0, 0, 0x7fff0000)]
    program = SockFprog(len(steps), b"".join(struct.pack("HBBI", *s) for s in steps))
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, without which only root may
    if libc.prctl(22, 2, ctypes.byref(program), 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "seccomp")


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
            env["RLM_TEST_FULL"] = str(FULL.get(program, 600000))
        if state not in ("bare", "plain"):
            broker = Broker(options.build, directory, 4096 if state == "ring-small" else 0)
        after = (SWITCH_AFTER_BULK if program in BULK else SWITCH_AFTER).get(state)
        if after:
            env["RLM_TEST_DEMOTE_AFTER" if state == "demote-mid" else "RLM_TEST_FLAP"] = str(after)
        output = tempfile.TemporaryFile("w+", errors="replace")
        process = subprocess.Popen([path] + ([test] if test else []), env=env, stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=output, cwd=directory, start_new_session=True,
                                   preexec_fn=lambda: (die_with_runner(), options.no_waitv and forbid_waitv()))
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


def run_crowded(options, program, state):
    """Beside others: (tests, those to be run again, what failed, output)"""
    tests = list_tests(options, program)
    passed, failed, text = run_once(options, program, state, None, PROGRAM_SECONDS)
    done = set(re.findall(r"^\[       OK \] (\S+)$", text, re.M)) - set(failed)
    return tests, [] if passed else [t for t in tests if t not in done], failed, text


def run_again(options, program, state, again, failed, text):
    """One test at a time, with nothing beside: (number of failed, report)"""
    bad, report = 0, []
    for test in again:
        passed, _, alone = run_once(options, program, state, test, TEST_SECONDS)
        bad += not passed
        # Unsteady if it passes now: shown, and to be looked into, but no reason to stop.
        if not passed or test in failed:
            said = excerpt(text, test) if passed else excerpt(alone)
            report.append(f"  {state:<12} {program}: {test}{' (passes alone)' if passed else ''}\n{said}")
    if failed and not report:
        bad = 1
        report.append(f"  {state:<12} {program}: fails as a whole, each test passes: {' '.join(failed)}\n{excerpt(text)}")
    return bad, report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=os.path.join(here, "../../build"))
    parser.add_argument("--states", default=",".join(STATES))
    parser.add_argument("--no-waitv", action="store_true", help="where a filter forbids futex_waitv(2), as in many containers")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("programs", nargs="*")
    options = parser.parse_args()
    options.build = os.path.abspath(options.build)
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
    total, bad, reports, again = 0, 0, [], []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        rows = [[pool.submit(run_crowded, options, p, s) for s in states] for p in programs]
        for program, row in zip(programs, rows):
            cells = []
            for state, future in zip(states, row):
                tests, *rest = future.result()
                total += len(tests)
                if rest[1]:
                    again.append((program, state, *rest))
                cells.append(f"{len(tests)}, failed" if rest[1] else f"{len(tests)} ok" if tests else "-")
            print(f"{program:<{width}} " + " ".join(f"{c:>12}" for c in cells), flush=True)
    for what in again:
        failed, report = run_again(options, *what)
        bad += failed
        reports += report
    if reports:
        print("\nfailed, now or only now and then:")
        print("\n".join(reports))
    print(f"{total - bad} passed, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
