#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""measure.py FILE: the table of what measure.sh has measured, medians and ratios, and whether the goals are reached. Lines of FILE:
name, carrier (tcp or ring), value, and percent of a processor that u2, u1 and dom0 took, with tabs between them; and lines "idle", which tell what
looking takes: that much is subtracted."""
import statistics
import sys

# Name, least ratio of the ring's value to TCP's; of times, most.
GOALS = {"stream 64K, MB/s": 10, "stream 512, MB/s": 30, "round trip 64, us": 0.2}
DOM0_SHARE = 5  # percent of what all three take, while bytes flow


def median(rows, column):
    return statistics.median(row[column] for row in rows)


def spread(rows):
    values = sorted(row[0] for row in rows)
    return f"{values[0]:.4g}-{values[-1]:.4g}"


def main():
    results = {}
    with open(sys.argv[1], encoding="ascii") as file:
        for line in file:
            name, carrier, *values = line.rstrip("\n").split("\t")
            results.setdefault(name, {}).setdefault(carrier, []).append([float(value) for value in values])
    idle = [median(results["idle"]["none"], column) for column in range(4)]
    del results["idle"]
    for carriers in results.values():
        for rows in carriers.values():
            rows[:] = [[row[0]] + [max(row[column] - idle[column], 0) for column in (1, 2, 3)] for row in rows]
    print("Medians; CPU: percent of one processor that u2, u1 and dom0 took, as Xen counts, more than when idle "
          f"({idle[1]:.0f}, {idle[2]:.0f}, {idle[3]:.0f}).")
    print(f"{'':22}  {'TCP':>8} {'from-to':>15} {'CPU u2':>6} {'u1':>5} {'dom0':>5}   {'ring':>8} {'from-to':>15} {'CPU u2':>6} {'u1':>5} {'dom0':>5}   {'ratio':>6}")
    missed = []
    for name, carriers in results.items():
        row = f"{name:22}"
        for carrier in ("tcp", "ring"):
            rows = carriers[carrier]
            row += f"  {median(rows, 0):8.4g} {spread(rows):>15} {median(rows, 1):6.0f} {median(rows, 2):5.0f} {median(rows, 3):5.0f} "
        ratio = median(carriers["ring"], 0) / median(carriers["tcp"], 0)
        print(f"{row}  {ratio:6.2f}")
        goal = GOALS.get(name)
        if goal and (ratio < goal if goal > 1 else ratio > goal):
            missed.append(f"{name}: ratio {ratio:.2f}, the goal is {goal}")
        rows = carriers["ring"]
        share = 100 * median(rows, 3) / max(sum(median(rows, column) for column in (1, 2, 3)), 0.1)
        if goal and share > DOM0_SHARE:
            missed.append(f"{name}: dom0 takes {share:.0f} % of the processor time, the goal is {DOM0_SHARE}")
    for line in missed:
        print("missed:", line)
    if not missed:
        print("Of the goals for these rows none is missed.")


if __name__ == "__main__":
    main()
