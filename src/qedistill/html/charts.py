"""Charts as SVG: for the report with colours that follow its light or dark style, for README with fixed ones.

Every function gives a matplotlib Figure of the width of a phone; two stand beside each other on a desk.
"""

import io
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qedistill.evaluation import STUDENTS, TEACHERS
from qedistill.report import NAMES
from qedistill.text import atomic

WIDTH = 5.0  # inches, at 72 points
# Placeholders in the figures, and what becomes of them: a custom property of the page, and a colour on white. The three
# kinds of system also differ in their marker.
INK, FAINT = "#010101", "#020202"
BASELINE, STUDENT, TEACHER = "#030303", "#040404", "#050505"
COLOURS = {
    INK: ("--ink", "#1f2328"),
    FAINT: ("--line", "#d0d7de"),
    BASELINE: ("--baseline", "#6e7781"),
    STUDENT: ("--student", "#0969da"),
    TEACHER: ("--teacher", "#bc4c00"),
}
STYLE: Any = {
    "text.parse_math": False,
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def kind(system: str) -> tuple[str, str]:
    """Colour and marker of a system."""
    if system in STUDENTS:
        return STUDENT, "o"
    return (TEACHER, "D") if system in TEACHERS.values() else (BASELINE, "s")


def systems(title: str, figures: dict[str, dict[str, Any]]) -> Figure:
    """nDCG@10 of every system with its 95 % interval, the first on top."""
    with _figure(0.85 + 0.27 * len(figures), title) as (figure, axes):
        for position, (system, values) in enumerate(figures.items()):
            colour, marker = kind(system)
            value, (low, high) = values["ndcg@10"], _ends(values)
            axes.plot([low, high], [position, position], color=colour, linewidth=2.2, alpha=0.55)
            axes.plot(value, position, marker, color=colour, markersize=6)
            axes.annotate(f"{value:.3f}", (high, position), (6, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(figures)), [NAMES[system] for system in figures])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1.16 * _highest(figures))
        axes.set_xlabel("nDCG@10, with 95 % interval")
        return figure


def cost(title: str, label: str, figures: dict[str, dict[str, Any]], costs: dict[str, float]) -> Figure:
    """nDCG@10 over a cost, for the systems that have one; the original query as a line."""
    with _figure(2.9, title) as (figure, axes):
        if "query" in figures:
            axes.axhline(figures["query"]["ndcg@10"], color=BASELINE, linewidth=1.4, linestyle="--")
            axes.annotate(
                NAMES["query"], (0, figures["query"]["ndcg@10"]), (2, -3), xycoords=("axes fraction", "data"),
                textcoords="offset points", va="top", fontsize=8.5,
            )  # fmt: skip
        shown = sorted((system for system in figures if system in costs), key=lambda s: figures[s]["ndcg@10"])
        close = 0.08 * _highest(figures)
        last: dict[str, float] = {}
        for system in shown:
            colour, marker = kind(system)
            values = figures[system]
            value, x = values["ndcg@10"], costs[system]
            axes.plot([x, x], _ends(values), color=colour, linewidth=2, alpha=0.45)
            axes.plot(x, value, marker, color=colour, markersize=6.5)
            # A name stands to the right of its point, unless another point is there; names do not stand on each other.
            crowded = any(
                (costs[other], other) > (x, system)
                and costs[other] < 2.2 * x
                and abs(figures[other]["ndcg@10"] - value) < close
                for other in shown
            )
            side = "right" if crowded else "left"
            height = max(value, last.get(side, -1.0) + close)
            last[side] = height
            axes.annotate(
                NAMES[system], (x, height), (-8 if crowded else 8, 0), textcoords="offset points", va="center", ha=side
            )
        axes.set_xscale("log")
        axes.set_xlim(min(costs[s] for s in shown) / 2.5, max(costs[s] for s in shown) * 2.5)
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.set_ylim(bottom=0)
        axes.set_xlabel(label)
        axes.set_ylabel("nDCG@10")
        return figure


def differences(title: str, series: dict[str, list[float]]) -> Figure:
    """Each query's difference in nDCG@10, sorted, one line a comparison."""
    with _figure(2.6, title) as (figure, axes):
        for (label, values), colour, style in zip(series.items(), (STUDENT, TEACHER), ("-", "--"), strict=False):
            ordered = sorted(values, reverse=True)
            axes.step(range(1, len(ordered) + 1), ordered, where="mid", color=colour, linestyle=style, label=label)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.legend(loc="upper right")
        axes.set_xlabel("queries, best first")
        axes.set_ylabel("difference in nDCG@10")
        return figure


def histogram(title: str, label: str, series: dict[str, list[float]], unit: str) -> Figure:
    """Distributions of one or two series, in common bins."""
    with _figure(2.4, title) as (figure, axes):
        every = [value for values in series.values() for value in values]
        whole = all(value == int(value) for value in every) and max(every) - min(every) < 60
        edges = np.arange(min(every) - 0.5, max(every) + 1) if whole else np.histogram_bin_edges(every, bins=20)
        bins = edges.tolist()
        for (name, values), colour, style in zip(series.items(), (STUDENT, TEACHER), ("-", "--"), strict=False):
            axes.hist(values, bins, histtype="stepfilled", color=colour, alpha=0.22)
            axes.hist(values, bins, histtype="step", color=colour, linewidth=1.5, linestyle=style, label=name)
        if len(series) > 1:
            axes.legend(loc="upper right")
        axes.set_xlabel(label)
        axes.set_ylabel(unit)
        return figure


def counts(title: str, label: str, series: dict[str, Counter[str]]) -> Figure:
    """Counts of the same names in two series, a pair of bars a name."""
    names = sorted({name for found in series.values() for name in found})
    with _figure(1.3 + 0.42 * len(names), title) as (figure, axes):
        for n, ((name, found), colour) in enumerate(zip(series.items(), (STUDENT, TEACHER), strict=False)):
            places = [position + (n - 0.5) * 0.36 for position in range(len(names))]
            bars = axes.barh(places, [found[key] for key in names], 0.34, color=colour, label=name)
            axes.bar_label(bars, padding=3)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
        axes.set_xlabel(label)
        figure.legend(loc="outside lower center", ncols=2)
        return figure


def curve(title: str, label: str, series: dict[str, list[tuple[float, float]]]) -> Figure:
    """Values over training steps; a series of few points is drawn as points."""
    with _figure(2.4, title) as (figure, axes):
        for (name, points), colour in zip(series.items(), (STUDENT, TEACHER), strict=False):
            x, y = zip(*points, strict=True) if points else ((), ())
            axes.plot(x, y, "D" if len(points) < 4 else "-", color=colour, markersize=5, linewidth=1.5, label=name)
        if len(series) > 1:
            axes.legend(loc="best")
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        return figure


def inline(figure: Figure) -> str:
    """The figure as an SVG element that takes its colours and its font from the page."""
    svg = _svg(figure, fonttype="none")  # text stays text
    svg = svg[svg.index("<svg") :]
    # Style rules would hold for the whole page.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg)
    # The page has many figures: each would have a figure_1 and an axes_1.
    svg = re.sub(r' id="[A-Za-z][\w.]*_\d+"', "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", svg, count=1)
    title = figure.axes[0].get_title(loc="left").replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    for placeholder, (name, _) in COLOURS.items():
        svg = svg.replace(placeholder, f"var({name})")
    return svg


def write(figure: Figure, path: Path) -> None:
    """The figure as an SVG file on white, atomically."""
    svg = _svg(figure, fonttype="path", facecolor="white")  # looks the same everywhere
    for placeholder, (_, colour) in COLOURS.items():
        svg = svg.replace(placeholder, colour)
    with atomic(path) as target:
        target.write_text(svg, encoding="utf-8")


def _ends(values: dict[str, Any]) -> tuple[float, float]:
    """Of the interval; the figure itself, twice, where it has none."""
    value = values["ndcg@10"]
    return values.get("ndcg@10_low", value), values.get("ndcg@10_high", value)


def _highest(figures: dict[str, dict[str, Any]]) -> float:
    """The highest end of an interval; 1 where all is 0, for an axis needs a length."""
    return max(_ends(values)[1] for values in figures.values()) or 1.0


@contextmanager
def _figure(height: float, title: str) -> Iterator[tuple[Figure, Axes]]:
    """A figure and its axes, in our style as long as it is drawn."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, height), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        yield figure, axes


def _svg(figure: Figure, fonttype: str, **options: Any) -> str:
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": fonttype, "svg.hashsalt": "qedistill"}):  # the same file every time
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, **options)
    return text.getvalue()
