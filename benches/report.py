#!/usr/bin/env python3
"""Writes the figures of a run of the benchmarks into a document, so that none is copied by hand.

    benches/report.py RESULTS.json DOCUMENT.md [--any]

What stands between `<!-- goals -->` or `<!-- results -->` and the `<!-- end -->` after it is replaced. Refuses results of fewer
than 5 runs or of some measurements only, unless --any is given.
"""

import json
import re
import sys
from datetime import datetime, timezone
from pathlib import Path

LEAST_RUNS = 5
PLOTS = {
    "lag": "Lag, by peer",
    "commits": "Commits a second, by set-up",
    "snapshot": "Time of a snapshot, by peer",
    "catchup": "Time to catch up, by peer",
}
"""What benches/plot.py draws, into the folder that is called like the document."""


def main():
    results = json.loads(Path(sys.argv[1]).read_text())
    document = Path(sys.argv[2])
    options = results["options"]
    if "--any" not in sys.argv[3:] and (options["runs"] < LEAST_RUNS or options["only"] or not options["peers"]):
        sys.exit(f"report: {sys.argv[1]} is not of all measurements with their peers and {LEAST_RUNS} runs of each")
    text = document.read_text()
    text = replaced(text, "goals", goals(results))
    text = replaced(text, "results", [*circumstances(results), *plots(results, document), *sections(results)])
    document.write_text(text)
    print(document)


def replaced(text, name, lines):
    """The text with the lines between the two markers."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->\n)", re.DOTALL)
    if not pattern.search(text):
        sys.exit(f"report: there is no <!-- {name} --> with an <!-- end --> after it")
    between = "\n".join(["", *lines, "", ""])
    return pattern.sub(lambda found: found[1] + between + found[2], text, count=1)


def circumstances(results):
    """On which machine, when, and what was measured."""
    machine, versions, options = results["machine"], results["versions"], results["options"]
    day = datetime.fromtimestamp(results["taken"], timezone.utc).strftime("%Y-%m-%d")
    names = ", ".join(f"{name} {first(version)}" for name, version in sorted(versions.items()))
    return [
        f"{day}: {options['runs']} runs of each measurement, on {machine['cores']} cores of an {machine['processor']} with"
        f" {machine['memory_mib'] / 1024:.0f} GiB of memory, {machine['kernel']}, {machine['file_system']}. {names}."
        f" Load average before: {machine['load_average']}.",
        "",
    ]


def plots(results, document):
    """An image for each plot that there are values for."""
    drawn = {bar["chart"] for bar in results["table"]["charts"]}
    lines = []
    for name, title in PLOTS.items():
        if name in drawn:
            lines += [f"![{title}]({document.stem}/{name}.png)", ""]
    return lines


def first(version):
    """The first word: a number, or the day of a build."""
    return str(version).split(" ")[0]


def goals(results):
    """A table of all that has a goal, missed ones first."""
    rows = []
    titles = [section["title"] for section in results["table"]["sections"]]
    # The rest of a title tells how much of it was done, and what makes it another measurement than one that begins alike.
    begins = [re.split("[:,] ", title)[0] for title in titles]
    for section, begin in zip(results["table"]["sections"], begins):
        title = begin if begins.count(begin) == 1 else section["title"]
        for line in section["lines"]:
            if line["goal"]:
                rows.append((line["met"], title, what_of(line), line["shown"]))
    lines = ["| measurement | figure | median | goal | |", "|---|---|---|---|---|"]
    for met, title, what, shown in sorted(rows, key=lambda row: row[0]):
        lines.append(f"| {title} | {what} | {shown[1]} | {shown[3]} | {'met' if met else '**missed**'} |")
    return lines


def what_of(line):
    """What a line tells, also without the line above that it belongs to."""
    if line["of"] == line["what"]:
        return line["what"]
    # "whose: which figure" is followed by other figures of the same.
    whose = re.sub(": [a-z0-9]+$", "", line["of"])
    return f"{whose}: {line['what'].removeprefix('– ')}"


def sections(results):
    """A table for each section, and what was left out."""
    lines = []
    for section in results["table"]["sections"]:
        lines += [f"| {section['title']} | median | lowest – highest | goal |", "|---|---|---|---|"]
        for line in section["lines"]:
            what, middle, reach, wanted, met = line["shown"]
            verdict = f"{wanted}: **missed**" if met == "MISSED" else wanted
            lines.append(f"| {what} | {middle} | {reach} | {verdict} |")
        lines.append("")
    # Why is told where it was measured: it may name places of that machine.
    lines += [f"Left out: {note['what']}." for note in results["table"]["left_out"]]
    return lines[:-1] if lines and not lines[-1] else lines


if __name__ == "__main__":
    main()
