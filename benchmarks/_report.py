"""What the suite writes: readings as JSON, a table as markdown, plots as PNG and SVG."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import paired

Result = dict[str, Any]

# Seen on white paper and on a dark page alike: middle tones, told apart by shape too.
INK = "#7d7d7d"
MET, MISSED, UNJUDGED = "#2a9d6f", "#d1495b", "#5b8def"
SHAPES = {True: "o", False: "X", None: "D"}
COLOURS = {True: MET, False: MISSED, None: UNJUDGED}
WORDS = {True: "yes", False: "**no**", None: ""}


class Row(NamedTuple):
    """One row of the table.

    Attributes:
        values: One for each round; none where it was left out.
        target: The limit in words, nothing where nothing was promised.
        limit: The same as a number.
    """

    comparison: str
    question: str
    text: str
    values: list[float]
    unit: str = ""
    target: str = ""
    limit: float | None = None
    met: bool | None = None
    why_not: str = ""

    @property
    def median(self) -> float:
        """The value that is judged."""
        return statistics.median(self.values)


# --- words -----------------------------------------------------------------------------------------


def show_number(value: float, unit: str) -> str:
    """Return a number with its unit, as short as it can be read."""
    if unit == "x":
        return f"{value:.2f} x" if value < 100 else f"{value:,.0f} x"
    if unit == "bytes":
        return f"{value / 1024:,.1f} KiB" if abs(value) >= 1024 else f"{value:,.0f} B"
    return f"{value:,.2f} {unit}"


def describe(row: Row) -> str:
    """Return one row for a terminal."""
    if row.why_not:
        return f"{row.text}: {row.why_not}"
    spread = f"{show_number(min(row.values), row.unit)} to {show_number(max(row.values), row.unit)}"
    verdict = {None: "", True: ", met: ", False: ", NOT MET: "}[row.met]
    return f"{row.text}: {show_number(row.median, row.unit)} ({spread}){verdict}{row.target}"


def make_table(rows: list[Row], machine: Result, settings: Result) -> str:
    """Return the table as markdown."""
    judged = [row.met for row in rows if row.target and not row.why_not]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if v)
    lines = [
        f"# The suite, {'full' if settings['full'] else 'quick'}",
        "",
        f"{machine['date']}, commit {machine['commit']}, {machine['cpu']}, "
        f"{machine['cpus_allowed']} of {machine['cpus']} cores, Linux {machine['kernel']}, "
        f"{machine['python']}; {versions}; "
        f"load at the start {settings['load']}. Medians of what each round gave, and their spread.",
        "",
        f"{sum(met is True for met in judged)} of {len(judged)} targets met.",
        "",
        "| question | what | median | spread | target | met |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.why_not:
            figures = f"{row.why_not} | | {row.target} | "
        else:
            low, high = (show_number(pick(row.values), row.unit) for pick in (min, max))
            figures = f"{show_number(row.median, row.unit)} | {low} to {high} | {row.target}"
            figures += f" | {WORDS[row.met]}"
        lines.append(f"| {row.question} | {row.text} | {figures} |")
    return "\n".join(lines) + "\n"


# --- plots -----------------------------------------------------------------------------------------


def plot_targets(axes: Any, rows: list[Row]) -> None:
    """Draw each target as how many times better than its limit the median is."""

    def better(row: Row, value: float) -> float:
        assert row.limit is not None
        value = max(value, row.limit / 100)  # a difference of times may be nothing, or less
        return value / row.limit if "least" in row.target else row.limit / value

    for at, row in enumerate(rows):
        values = [better(row, value) for value in row.values]
        axes.plot([min(values), max(values)], [at, at], color=INK, linewidth=1.5)
        axes.plot([better(row, row.median)], [at], marker=SHAPES[row.met], color=COLOURS[row.met])
    axes.axvline(1, color=INK, linewidth=1, linestyle="--")
    axes.set_xlabel("times better than the target")


def plot_ratios(axes: Any, rows: list[Row]) -> None:
    """Draw ratios as they are."""
    for at, row in enumerate(rows):
        axes.plot([min(row.values), max(row.values)], [at, at], color=INK, linewidth=1.5)
        axes.plot([row.median], [at], marker=SHAPES[row.met], color=COLOURS[row.met])
    axes.axvline(1, color=INK, linewidth=1, linestyle="--")
    axes.set_xlabel("ratio")


def save_plot(path: Path, rows: list[Row], draw: Callable[[Any, list[Row]], None]) -> list[Path]:
    """Draw rows from top to bottom on a logarithmic scale; return what was written.

    A mark is the median, a circle where the target is met and a cross where it is not; the line is
    the spread.
    """
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams.update({"svg.hashsalt": "anyio_bus", "font.size": 8})
    for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"):
        mpl.rcParams[name] = INK
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(9, 1 + 0.2 * len(rows)), layout="constrained")
    axes = figure.subplots()
    draw(axes, rows)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(
        range(len(rows)), [f"{row.question}: {row.text}".replace("`", "") for row in rows]
    )
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color=INK, alpha=0.25)
    written = []
    for suffix, more in ((".png", {"dpi": 160}), (".svg", {"metadata": {"Date": None}})):
        written.append(path.with_name(path.name + suffix))
        figure.savefig(written[-1], transparent=True, **more)
    return written


def draw_plots(target: Path, rows: list[Row]) -> list[Path]:
    """Draw what was promised, and all other ratios."""
    shown = [row for row in rows if row.values and min(row.values) > 0]
    chosen = {
        "targets": ([row for row in rows if row.values and row.limit is not None], plot_targets),
        "ratios": ([row for row in shown if row.unit == "x" and row.limit is None], plot_ratios),
    }
    written = []
    for name, (some, draw) in chosen.items():
        if some:
            written += save_plot(target.with_name(f"{target.stem}-{name}"), some, draw)
    return written


def report(target: Path, rows: list[Row], readings: dict[str, Result], settings: Result) -> None:
    """Write all that was found beside ``target``, the JSON file."""
    machine = paired.describe_machine()
    found = [row._asdict() | {"median": row.median if row.values else None} for row in rows]
    written = {"machine": machine, "settings": settings, "rows": found, "comparisons": readings}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(written, indent=1) + "\n")
    table = target.with_suffix(".md")
    table.write_text(make_table(rows, machine, settings))
    paths = [target, table]
    try:
        paths += draw_plots(target, rows)
    except ModuleNotFoundError as exc:
        print(f"LEFT OUT: plots: {exc}")
    print("wrote", *(path.name for path in paths))
