"""Drawings of a report, each a `data:` address that needs no other file: charts as SVG, tiles as JPEG."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, cast

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import precision_recall_curve, roc_curve

from flawline.report.gallery import Card, PictureRow
from flawline.scoring.picture import Pixels

GOOD_COLOUR = "#0072B2"
DEFECT_COLOUR = "#D55E00"
"""Blue and vermilion of Okabe and Ito's palette: told apart by colour-blind readers, and in grey."""

HEAT_TOP = 2.0
"""The heat map's last colour: twice the pixel threshold and above."""

_HATCH = 10
"""Pixels of a thumbnail from one line of a hatching to the next."""
_INK = "#24292f"
_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.edgecolor": "#6e7781",
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "flawline",  # the same evaluation gives the same file
}

Runs = Mapping[int, Sequence[PictureRow]]
"""Rows of each run, by seed; the chart of several runs draws a line for each."""


def roc_chart(runs: Runs, middle: int) -> str:
    """Draw the defects found over the good pictures called defective; the dot is the decision taken."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas()
        for seed, rows in runs.items():
            false_alarms, found, _ = roc_curve(*_labels_and_scores(rows))
            axes.plot(false_alarms, found, **_line_style(seed == middle), clip_on=False)
        rows = runs[middle]
        at = [np.mean([row.called for row in rows if row.is_defect is kind]) for kind in (False, True)]
        axes.plot(*at, "o", color=DEFECT_COLOUR, ms=8, label="decision taken", clip_on=False, zorder=5)
        axes.plot([0, 1], [0, 1], color="#8c959f", ls=":", lw=1.2, label="guessing")
        axes.set(xlabel="good pictures called defective", ylabel="defects found", xlim=(0, 1), ylim=(0, 1.01))
        _percent(axes)
        _legend_above(axes, columns=3)
        return _svg(figure)


def precision_chart(runs: Runs, middle: int) -> str:
    """Draw the share of right calls among all calls over the share of defects found."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas()
        for seed, rows in runs.items():
            precision, recall, _ = precision_recall_curve(*_labels_and_scores(rows))
            axes.plot(recall, precision, **_line_style(seed == middle), clip_on=False)
        rows = runs[middle]
        called = [row.is_defect for row in rows if row.called]
        if called:
            found = sum(called) / sum(row.is_defect for row in rows)
            axes.plot(
                found,
                np.mean(called),
                "o",
                color=DEFECT_COLOUR,
                ms=8,
                label="decision taken",
                clip_on=False,
                zorder=5,
            )
        share = float(np.mean([row.is_defect for row in rows]))
        axes.axhline(share, color="#8c959f", ls=":", lw=1.2, label="guessing")
        axes.set(xlabel="defects found", ylabel="calls that are right", xlim=(0, 1), ylim=(0, 1.01))
        _percent(axes)
        _legend_above(axes, columns=3)
        return _svg(figure)


def budget_chart(rows: Sequence[PictureRow], budget: float) -> str:
    """Show what other false-alarm budgets would have given: found defects and measured false alarms."""
    lowest = min(budget, *(row.p_value for row in rows))
    budgets = np.geomspace(lowest / 1.5, max(0.3, min(1.0, budget * 2)), 400)
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas()
        for is_defect, colour, style, name in (
            (True, DEFECT_COLOUR, "-", "defects found"),
            (False, GOOD_COLOUR, "-.", "good pictures called defective"),
        ):
            p_values = np.sort([row.p_value for row in rows if row.is_defect is is_defect])
            if p_values.size:
                share = np.searchsorted(p_values, budgets, side="right") / p_values.size
                axes.plot(budgets, share, color=colour, ls=style, lw=2, label=name)
        axes.plot(budgets, budgets, color="#8c959f", ls=":", lw=1.4, label="promise")
        axes.axvline(budget, color=_INK, ls="--", lw=1.4, label=f"budget of this line ({100 * budget:.3g}%)")
        axes.set(xlabel="false-alarm budget", ylabel="share of pictures", ylim=(0, 1.01))
        _plain_log(axes)
        _percent(axes)
        axes.set_xlim(budgets[0], budgets[-1])
        _legend_above(axes)
        return _svg(figure)


def class_curves(curves: Mapping[str, Sequence[float]]) -> str:
    """Draw precision over recall of the boxes of each class, at an overlap of 0.5."""
    recalls = np.linspace(0, 1, 101)
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(curves)))
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas()
        for (name, precision), colour in zip(curves.items(), colours, strict=True):
            axes.plot(recalls, precision, color=colour, lw=2, label=name, clip_on=False)
        axes.set(xlabel="labelled boxes found", ylabel="boxes that are right", xlim=(0, 1), ylim=(0, 1.01))
        _percent(axes)
        _legend_above(axes)
        return _svg(figure)


def loss_chart(losses: Sequence[float]) -> str:
    """Draw the mean loss of each equal part of a training, over the share of its steps done."""
    ends = np.arange(1, len(losses) + 1) / len(losses)
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas()
        axes.plot(ends, losses, "o-", color=GOOD_COLOUR, lw=2.2, ms=5, clip_on=False)
        axes.set(xlabel="share of the steps", ylabel="loss", xlim=(0, 1), ylim=(0, None))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
        return _svg(figure)


def heat_scale() -> str:
    """Draw the colours of the heat maps; 1.0 is the pixel threshold of the line."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 0.62), layout="constrained")
        bar = Colorbar(
            figure.add_subplot(), cmap=_on_white(), norm=Normalize(0, HEAT_TOP), orientation="horizontal"
        )
        bar.set_ticks(
            [0, 0.5, 1, 1.5, HEAT_TOP], labels=["0", "0.5", "1.0 = threshold", "1.5", "2.0 and above"]
        )
        bar.ax.axvline(1.0, color=_INK, lw=1.5)
        return _svg(figure)


def picture_tile(card: Card) -> str:
    """Encode the thumbnail as it is."""
    return _jpeg(card.picture)


def heat_tile(card: Card) -> str:
    """Colour the thumbnail, made grey, by its scores from half the threshold on."""
    level = np.clip(card.scores / HEAT_TOP, 0, 1)
    colour = _heat_map()(level)[:, :, :3]
    alpha = _heat_alpha(level)[:, :, None]
    return _jpeg(_byte(_grey(card.picture) * (1 - alpha) + colour * alpha))


def called_tile(card: Card) -> str:
    """Fade the thumbnail and paint the pixels called defective, with their boxes."""
    tile = _painted(card, card.mask, GOOD_COLOUR)
    for number, corners in enumerate(card.boxes.tolist()):
        _frame(tile, corners, card.tags[number] if card.tags else "", _INK)
    return _jpeg(tile)


def labelled_tile(card: Card) -> str:
    """Fade the thumbnail and draw the boxes that people labelled, with the names of their classes."""
    tile = _byte(0.45 + 0.55 * _grey(card.picture))
    for name, corners in card.labelled:
        _frame(tile, corners, name, DEFECT_COLOUR)
    return _jpeg(tile)


def _frame(tile: Pixels, corners: Sequence[float], name: str, colour: str) -> None:
    """Draw a box on a tile, with a name in its upper left corner."""
    x1, y1, x2, y2 = (round(value) for value in corners)
    ink = tuple(round(255 * value) for value in to_rgb(colour))
    cv2.rectangle(tile, (x1, y1), (x2 - 1, y2 - 1), ink, 1)
    if name:  # OpenCV's letters are those of ASCII
        text = name.encode("ascii", "replace").decode()
        place = (max(x1 + 2, 0), min(max(y1 + 10, 10), tile.shape[0] - 2))
        cv2.putText(tile, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.35, (255, 255, 255), 2, cv2.LINE_AA)
        cv2.putText(tile, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.35, ink, 1, cv2.LINE_AA)


def truth_tile(card: Card) -> str:
    """Fade the thumbnail and paint the pixels labelled defective; the card has a label."""
    return _jpeg(_painted(card, cast(NDArray[np.bool_], card.truth), DEFECT_COLOUR))


def ignored_tile(card: Card) -> str:
    """Hatch and fade the regions of the thumbnail that are not judged; the card has some."""
    ignored = cast(NDArray[np.bool_], card.ignored)
    down, across = np.indices(ignored.shape)
    line = (down + across) % _HATCH < 2
    colour = np.where(line, 0.25, 0.85)[:, :, None]
    return _jpeg(
        _byte(np.where(ignored[:, :, None], 0.3 * _grey(card.picture) + 0.7 * colour, card.picture / 255))
    )


def scores_of(rows: Sequence[PictureRow], *, is_defect: bool) -> NDArray[np.float64]:
    """FP64 [n]: scores of the good or of the defective pictures."""
    return np.array([row.score for row in rows if row.is_defect is is_defect], dtype=np.float64)


def _labels_and_scores(rows: Sequence[PictureRow]) -> tuple[list[bool], list[float]]:
    return [row.is_defect for row in rows], [row.score for row in rows]


def _canvas() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, 3.9), layout="constrained")
    return figure, figure.add_subplot()


def _line_style(is_middle: bool) -> dict[str, Any]:
    return (
        {"color": GOOD_COLOUR, "lw": 2.2, "label": "this run"}
        if is_middle
        else {"color": "#9fb9cc", "lw": 1.2}
    )


def _legend_above(axes: Axes, columns: int = 2) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, fontsize=10, columnspacing=1.2)


def _percent(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))


def _plain_log(axes: Axes) -> None:
    """Logarithmic horizontal axis, labelled 0.1, 0.2, 0.5, 1 and so on."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _heat_map() -> LinearSegmentedColormap:
    return cast(LinearSegmentedColormap, mpl.colormaps["plasma"])


def _heat_alpha(level: NDArray[np.float64]) -> NDArray[np.float64]:
    """Opacity: nothing below half the threshold, so that the picture stays visible where all is well."""
    return np.clip((level * HEAT_TOP - 0.5) / 0.5, 0, 1) * 0.75


def _on_white() -> LinearSegmentedColormap:
    level = np.linspace(0, 1, 256)
    alpha = _heat_alpha(level)[:, None]
    grey = np.full((256, 3), 0.75)
    return LinearSegmentedColormap.from_list("heat", grey * (1 - alpha) + _heat_map()(level)[:, :3] * alpha)


def _grey(picture: Pixels) -> NDArray[np.float64]:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) / 255
    return np.repeat(grey[:, :, None], 3, axis=2)


def _painted(card: Card, region: NDArray[np.bool_], colour: str) -> Pixels:
    faded = 0.45 + 0.55 * _grey(card.picture)
    paint = np.array(to_rgb(colour))
    return _byte(np.where(region[:, :, None], 0.25 * faded + 0.75 * paint, faded))


def _byte(tile: NDArray[np.float64]) -> Pixels:
    return (tile * 255).round().astype(np.uint8)


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _address("image/svg+xml", buffer.getvalue())


def _jpeg(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88, subsampling=0)
    return _address("image/jpeg", buffer.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
