"""Figures of a study's report, drawn with Matplotlib's object interface (no pyplot, no display).

Colours are those of Okabe and Ito, told apart by colour-blind readers; line styles and markers differ too.
"""

import io
import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sigma_ray.report import ArmRow, Curve

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D46")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
GREY = "#5A5A5A"
DPI = 150
NUM_IMAGES = 4


def png(figure: "Figure") -> bytes:
    """The figure as a PNG file."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=DPI, facecolor="white")
    return sink.getvalue()


def metric_vs_parameters(summary: Sequence["ArmRow"], metric: str) -> "Figure | None":
    """Mean and 95 % interval of the metric against trainable parameters, 0 at the left; None without results."""
    rows = [row for row in summary if row.n]
    if not rows:
        return None
    figure, axes = _axes(7.2, 4.4)
    counts = [row.trainable_parameters for row in rows]
    zero = min((count for count in counts if count), default=4) / 4
    for index, row in enumerate(summary):
        if row.n:
            low, high = (row.mean - row.ci_low, row.ci_high - row.mean) if row.n > 1 else (0, 0)
            axes.errorbar(
                row.trainable_parameters or zero,
                row.mean,
                yerr=[[low], [high]],
                fmt=_marker(index),
                color=_colour(index),
                markersize=8 if row.baseline else 6.5,
                markeredgecolor="white",
                markeredgewidth=0.7,
                elinewidth=1.4,
                capsize=3,
                zorder=3,
            )
    axes.set_xscale("log")
    xs = [count or zero for count in counts]
    span = max(max(xs) / min(xs), 1.6)
    axes.set_xlim(min(xs) / span**0.14, max(xs) * span**0.14)
    axes.margins(y=0.14)
    axes.set_xlabel("Trainable parameters")
    axes.set_ylabel(f"{metric}, mean and 95 % interval over seeds")
    baseline = next((row for row in rows if row.baseline), None)
    if baseline:
        axes.axhline(baseline.mean, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    _plain_ticks(axes, zero if 0 in counts else None)
    colours = [_colour(index) for index, row in enumerate(summary) if row.n]
    _place_labels(axes, rows, xs, colours)
    return figure


def training_curves(curves: Mapping[tuple[str, int], "Curve"], arms: Sequence[str], metric: str) -> "Figure | None":
    """Validation metric against step, mean over seeds with the band from the lowest to the highest seed."""
    drawn = {arm: _common([curve for (name, _), curve in curves.items() if name == arm]) for arm in arms}
    if not any(len(steps) for steps, _ in drawn.values()):
        return None
    figure, axes = _axes(7.2, 4.4)
    for index, arm in enumerate(arms):
        steps, values = drawn[arm]
        if len(steps):
            style = DASHES[index // len(COLOURS) % len(DASHES)]
            mean = values.mean(axis=0)
            axes.plot(
                steps,
                mean,
                color=_colour(index),
                linestyle=style,
                linewidth=1.7,
                marker=_marker(index) if len(steps) < 25 else None,
                markersize=4.5,
                markeredgecolor="white",
                markeredgewidth=0.5,
                label=arm,
                zorder=3,
            )
            axes.fill_between(
                steps, values.min(axis=0), values.max(axis=0), color=_colour(index), alpha=0.14, linewidth=0
            )
    axes.set_xlabel("Training step")
    axes.set_ylabel(f"{metric.replace('test/', 'val/')}, mean and range over seeds")
    axes.margins(x=0.02)
    handles, names = axes.get_legend_handles_labels()
    final = {arm: values.mean(axis=0)[-1] for arm, (steps, values) in drawn.items() if len(steps)}
    order = sorted(range(len(names)), key=lambda i: -final[names[i]])
    figure.legend(
        [handles[i] for i in order],
        [textwrap.fill(names[i], 24) for i in order],
        loc="outside right center",
        frameon=False,
        fontsize=8.5,
        handlelength=2.4,
        title="by last value",
        title_fontsize=8.5,
    )
    return figure


def predictions(examples: Mapping[str, Path], arms: Sequence[str]) -> "Figure | None":
    """Test samples with their ground truth and each arm's prediction, as `pictures.examples` drew them."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from safetensors.numpy import load_file

    loaded = {arm: load_file(examples[arm]) for arm in arms if arm in examples}
    if not loaded:
        return None
    first = next(iter(loaded.values()))
    count = min(NUM_IMAGES, len(first["image"]))
    columns = {"image": first["image"], "ground truth": first["target"]}
    columns |= {arm: tensors["prediction"] for arm, tensors in loaded.items()}
    ratio = first["image"].shape[1] / first["image"].shape[2]
    cell = 1.35
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(cell * len(columns), cell * ratio * count + 0.45), layout=layout)
    grid = figure.subplots(count, len(columns), squeeze=False)
    for column, (name, images) in enumerate(columns.items()):
        grid[0][column].set_title(textwrap.fill(name, 16), fontsize=8.5, color="black" if column < 2 else GREY)
        for row in range(count):
            axes = grid[row][column]
            axes.imshow(images[row], interpolation="nearest")
            axes.set_axis_off()
    return figure


def _axes(width: float, height: float) -> "tuple[Figure, Axes]":
    """An empty figure with quiet axes; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, labelsize=9, which="both")
    return figure, axes


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _marker(index: int) -> str:
    """A marker; shifted where the colours begin again, so that no two arms share both."""
    return MARKERS[(index + 3 * (index // len(COLOURS))) % len(MARKERS)]


def _plain_ticks(axes: "Axes", zero: float | None) -> None:
    """Write parameter counts as 20k and 1.5M, and 0 at `zero`; minor ones only where the axis spans little."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, NullLocator

    low, high = axes.get_xlim()
    few = math.log10(high / low) < 2.4
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=12))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if few:
        axes.xaxis.set_minor_locator(NullLocator())
    if zero is not None:
        ticks = [tick for tick in axes.get_xticks() if 1.5 * zero < tick < high]
        axes.set_xticks([zero, *ticks], ["0", *map(EngFormatter(sep="").format_eng, ticks)])
        axes.set_xlim(low, high)


def _common(curves: Sequence["Curve"]) -> tuple[np.ndarray, np.ndarray]:
    """Steps that all seeds share (S,) and the values there (seeds, S)."""
    tables = [dict(curve) for curve in curves if len(curve)]
    if not tables:
        return np.array([]), np.zeros((0, 0))
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    return np.array(steps), np.array([[table[step] for step in steps] for table in tables])


def _place_labels(axes: "Axes", rows: Sequence["ArmRow"], xs: Sequence[float], colours: Sequence[str]) -> None:
    """Name every point beside it, at the nearest place that covers no other label, marker or error bar."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.get_figure()
    canvas = FigureCanvasAgg(figure)  # type: ignore[arg-type]
    canvas.draw()
    taken = []
    for row, x in zip(rows, xs, strict=True):
        low, high = (row.ci_low, row.ci_high) if row.n > 1 else (row.mean, row.mean)
        (px, bottom), (_, top), (_, middle) = axes.transData.transform([(x, low), (x, high), (x, row.mean)])
        taken += [(px - 4, bottom - 3, px + 4, top + 3), (px - 9, middle - 9, px + 9, middle + 9)]
    frame = axes.get_window_extent()
    for row in rows:
        if row.baseline:
            level = float(axes.transData.transform((xs[0], row.mean))[1])
            taken.append((frame.x0, level - 1, frame.x1, level + 1))
    for row, x, colour in zip(rows, xs, colours, strict=True):
        text = axes.annotate(row.arm, (x, row.mean), (0, 0), textcoords="offset pixels", fontsize=8.5, color=colour)
        text.set_in_layout(False)
        box = text.get_window_extent(canvas.get_renderer())
        px, py = axes.transData.transform((x, row.mean))
        best = min(_places(box.width, box.height), key=lambda p: _cost(p, px, py, box, taken, frame))
        text.set_position((best[0], best[1]))
        left, bottom = px + best[0], py + best[1]
        taken.append((left, bottom, left + box.width, bottom + box.height))
        if best[2] > 22:
            nearest = min(max(0, best[0]), best[0] + box.width), best[1] + box.height / 2
            axes.annotate(
                "",
                (x, row.mean),
                nearest,
                textcoords="offset pixels",
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.7},
            )


def _places(width: float, height: float) -> list[tuple[float, float, float]]:
    """Offsets (x, y) of a label's lower left corner around a point, with the distance, in pixels."""
    found = []
    for radius, angle in itertools.product((15, 22, 36, 52, 72, 96, 124), range(0, 360, 15)):
        dx, dy = radius * math.cos(math.radians(angle)), radius * math.sin(math.radians(angle))
        left = dx - width * (0.5 - 0.5 * math.cos(math.radians(angle)))
        found.append((left, dy - height * (0.5 - 0.5 * math.sin(math.radians(angle))), float(radius)))
    return found


def _cost(
    place: tuple[float, float, float],
    px: float,
    py: float,
    box: object,
    taken: Sequence[tuple[float, float, float, float]],
    frame: object,
) -> float:
    """Overlap in square pixels counts most, then leaving the frame, then the distance."""
    width, height = box.width, box.height  # type: ignore[attr-defined]
    left, bottom = px + place[0], py + place[1]
    right, top = left + width, bottom + height
    overlap = sum(
        max(0, min(right, x1) - max(left, x0)) * max(0, min(top, y1) - max(bottom, y0)) for x0, y0, x1, y1 in taken
    )
    outside = max(0, frame.x0 - left) + max(0, right - frame.x1 - 20)  # type: ignore[attr-defined]
    outside += max(0, frame.y0 - bottom) + max(0, top - frame.y1)  # type: ignore[attr-defined]
    return 50 * overlap + 1000 * outside + place[2]
