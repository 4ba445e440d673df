#!/usr/bin/env python3
"""Draws one SVG per scenario from the JSON lines of `octopus-bench compare`.

    pip install matplotlib
    bench/plot.py bench/results/2026-11-24-compare.jsonl bench/results/plots

Bars are medians over the rounds, the thin lines on them reach from the lowest to the highest.
What a broker could not play is said where its bar would be.
"""

import json
import pathlib
import statistics
import sys
from collections import defaultdict

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import EngFormatter  # noqa: E402

COLOURS = {
    "octopus": "#d1495b",
    "floor": "#9a9a9a",
    "mosquitto": "#3c6e9f",
    "flashmq": "#e08e2b",
    "rumqttd": "#5a9367",
    "rmqtt": "#7d5ba6",
    "nanomq": "#4fa3a5",
}
MIB = 1 << 20


def latency(name):
    """A percentile of what the broker was asked for: delivery, else acknowledgement."""

    def figure(sample):
        outcome = sample["outcome"]
        times = outcome["latency"] or outcome["acknowledge"] or outcome["connect"]
        return times and times[name] / 1000

    return figure


def rate(sample):
    outcome = sample["outcome"]
    return outcome["received_per_s"] or outcome["sent_per_s"] or outcome["connects_per_s"]


def moved(sample):
    outcome = sample["outcome"]
    return outcome["measured_received"] or outcome["measured_sent"]


def cpu(part):
    """CPU per message; where none is sent, per client connected."""

    def figure(sample):
        if moved(sample):
            return sample[part]
        return sample["connect_cpu_us"] if part == "cpu_us" else None

    return figure


def memory(sample):
    return sample["resident_bytes"] / MIB


def bars(axes, title, groups, figures, log=False):
    """One bar for each broker and figure; several figures stand behind each other."""
    axes.set_title(title, fontsize=9, loc="left")
    width = 0.8 / len(figures)
    for place, (broker, samples) in enumerate(groups):
        for at, (label, figure) in enumerate(figures):
            values = [v for v in (figure(sample) for sample in samples) if v is not None]
            if not values:
                continue
            x, middle = place - 0.4 + width * (at + 0.5), statistics.median(values)
            axes.bar(x, middle, width * 0.92, color=COLOURS.get(broker, "#444"),
                     alpha=1 - 0.27 * at)
            axes.plot([x, x], [min(values), max(values)], color="black", linewidth=0.8)
            text = f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}"
            axes.annotate(f"{label}{text}", (x, max(values)), ha="center", va="bottom",
                          fontsize=6, rotation=90 if len(figures) > 1 else 0,
                          xytext=(0, 2), textcoords="offset points")
    if log:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(y=0.22)
    axes.set_xticks(range(len(groups)), [name for name, _ in groups], fontsize=7)
    axes.tick_params(axis="y", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def draw(case, groups, absent, path):
    samples = [sample for _, found in groups for sample in found]
    sends = any(moved(sample) for sample in samples)
    unit = "message" if sends else "connect"
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.4))
    bars(axes[0], f"{unit}s/s", groups, [("", rate)])
    parts = [("", cpu("cpu_us"))]
    if sends:
        parts += [("user ", cpu("user_us")), ("sys ", cpu("system_us"))]
    bars(axes[1], f"broker CPU, µs per {unit}", groups, parts, log=sends)
    times = [("", latency("p50_us")), ("", latency("p99_us")), ("", latency("p999_us"))]
    kind = "latency" if sends else "connect"
    bars(axes[2], f"{kind} p50, p99, p99.9, ms", groups, times, log=True)
    bars(axes[3], "resident memory at the end, MiB", groups, [("", memory)])
    command = samples[0]["command"].split(" --port ")[0]
    figure.suptitle(f"{case}    {command}", fontsize=10, x=0.01, ha="left")
    cannot = "    ".join(f"{name} cannot: {why}" for name, why in absent)
    note = f"{samples[0]['machine']}; commit {samples[0]['commit']}. {cannot}"
    figure.text(0.01, 0.01, note, fontsize=6)
    figure.tight_layout(rect=(0, 0.03, 1, 0.99))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(lines, directory):
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "octopus"})
    played, absent = defaultdict(lambda: defaultdict(list)), defaultdict(list)
    for line in pathlib.Path(lines).read_text().splitlines():
        sample = json.loads(line)
        if "cannot" in sample:
            absent[sample["case"]].append((sample["broker"], sample["cannot"]))
        else:
            played[sample["case"]][sample["broker"]].append(sample)
    target = pathlib.Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    for case, brokers in played.items():
        draw(case, list(brokers.items()), absent[case], target / f"{case}.svg")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
