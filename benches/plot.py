#!/usr/bin/env python3
"""Draws the plots of a run of the benchmarks.

    benches/plot.py RESULTS.json FOLDER     lag.png, commits.png, snapshot.png and catchup.png, as far as they were measured

Takes matplotlib, which benches/peers/setup puts beside the peers.
"""

import json
import sys
import textwrap
from pathlib import Path
from statistics import median

try:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
except ImportError:
    sys.exit("plot: there is no matplotlib; benches/peers/setup gets it")

NANOS_A_MILLI = 1e6
NANOS_A_SECOND = 1e9
SHORTEST_LAG = 1e-3
"""Milliseconds: what is shorter, or below zero because the reader was there before COMMIT returned, is drawn as this."""

LABEL = 45
"""Characters in a line of a label."""

BARS = {
    "snapshot": ("A copy of the database, durable", "seconds", NANOS_A_SECOND, "{:.2f}"),
    "catchup": ("A replica catches up, durable", "seconds", NANOS_A_SECOND, "{:.2f}"),
    "commits": ("Commits of one small row, flat out, on two cores", "commits a second", 1, "{:,.0f}"),
}
"""Title, unit, what a unit is in the values, and how a value is written, by the name of the chart."""


def main():
    results, folder = Path(sys.argv[1]), Path(sys.argv[2])
    charts = {}
    for bar in json.loads(results.read_text())["table"]["charts"]:
        charts.setdefault(bar["chart"], []).append((bar["label"], bar["values"]))
    folder.mkdir(parents=True, exist_ok=True)
    for name, bars in charts.items():
        figure = lags(bars) if name == "lag" else durations(bars, *BARS[name])
        path = folder / f"{name}.png"
        # Without the version of matplotlib in it, the same figures make the same file.
        figure.savefig(path, dpi=110, metadata={"Software": None})
        pyplot.close(figure)
        print(path)


def colour(label):
    """Whose it is: ours, the plain way, or one of the peers."""
    for word, is_drawn in [
        ("own file", "#7f7f7f"), ("plain SQLite", "#7f7f7f"), ("cp", "#7f7f7f"), ("backup API", "#7f7f7f"),
        ("sqlite3_rsync", "#2ca02c"), ("VFS", "#9467bd"), ("Litestream", "#ff7f0e"),
    ]:
        if label.startswith(word) or word in label and not label.startswith("l"):
            return is_drawn
    return "#1f77b4"


def lags(lines):
    """Which share of the commits was seen after how long, a line for each way."""
    figure, axes = pyplot.subplots(figsize=(10, 5), layout="constrained")
    styles = ["-", "--", ":", "-."]
    drawn = {}
    for label, percentiles in lines:
        # Of those in one colour each has a line of its own.
        nth = drawn.setdefault(colour(label), [])
        style = styles[len(nth) % len(styles)]
        nth.append(label)
        millis = [max(value / NANOS_A_MILLI, SHORTEST_LAG) for value in percentiles]
        shares = [100 * n / (len(millis) - 1) for n in range(len(millis))]
        axes.plot(millis, shares, style, color=colour(label), label=f"{label} ({shown(median(millis))})")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds from COMMIT, all runs together (in brackets: the median)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("% of the commits seen")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.set_title("Lag at 100 commits a second, as a reader in another process sees it", loc="left")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def shown(millis):
    """With two digits that matter."""
    return f"{millis:.2g} ms" if millis < 100 else f"{millis:.0f} ms"


def durations(bars, title, unit, divisor, form):
    """A bar for each way: its median, with a line from the lowest to the highest."""
    figure, axes = pyplot.subplots(figsize=(10, 1 + 0.5 * len(bars)), layout="constrained")
    highest = 0
    for n, (label, values) in enumerate(bars):
        values = [value / divisor for value in values]
        middle = median(values)
        reach = [[middle - min(values)], [max(values) - middle]]
        axes.barh(n, middle, color=colour(label), height=0.6, xerr=reach, error_kw={"capsize": 3, "ecolor": "#333333"})
        axes.annotate(form.format(middle), (max(values), n), xytext=(6, 0), textcoords="offset points", va="center")
        highest = max(highest, *values)
    axes.set_yticks(range(len(bars)), [textwrap.fill(label, LABEL) for label, _ in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, highest * 1.15)
    axes.set_xlabel(f"{unit}: median, lowest – highest")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
