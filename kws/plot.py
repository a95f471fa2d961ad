# SPDX-License-Identifier: Apache-2.0
"""Pictures: a detection with waveform, features, posteriors and events; the curves of tuning and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.frontend import recording_features
from features.plot import at_most, draw_waveform
from kws.detector import POSTERIOR_MAX, Detector, Event, Trace, keywords_of
from kws.errors import MissingExtraError

if TYPE_CHECKING:
    from kws.model import Model
    from kws.tune import Tuning

_INCHES_A_SECOND = 0.5
_DPI = 100


def plot_detection(
    samples: NDArray[Any], detector: Detector, trace: Trace, events: list[Event], out: str | Path, *, title: str = ""
) -> None:
    """Write the picture of `samples` (n,), of what `detector` made of them and of the events to the PNG file `out`.

    Posteriors are smoothed as the decision sees them and drawn where their windows have their middle; a dashed line is
    a threshold. MissingExtraError without matplotlib.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("pictures need matplotlib", hint="pip install 'integer-kws[plot]'") from None
    model = detector.model
    width = min(60.0, max(10.0, _INCHES_A_SECOND * trace.seconds))
    figure = Figure(figsize=(width, 7.5), layout="constrained")
    wave, image, curves = figure.subplots(3, 1, sharex=True)
    figure.suptitle(title)
    pixels = round(width * _DPI)
    draw_waveform(wave, samples, detector.frontend.sample_rate, pixels, color="0.4")
    wave.set(ylabel="waveform", xlim=(0, trace.seconds))
    _features(image, samples, detector, 2 * pixels)
    _posteriors(curves, detector, trace)
    _events(wave, curves, model, events)
    with rc_context({"agg.path.chunksize": 2000}):  # of points: what Agg holds while it draws a line grows with them
        figure.savefig(out, dpi=_DPI, format="png")


def _features(axes: Any, samples: NDArray[Any], detector: Detector, most: int) -> None:
    """What the network sees, in integers; for a front-end that normalizes each clip, the whole recording at once."""
    frontend = detector.frontend
    q = recording_features(samples, frontend, detector.model.graph.input_params)
    if len(q):
        seconds = len(q) * frontend.hop_length / frontend.sample_rate
        extent = (0, seconds, -0.5, q.shape[1] - 0.5)
        axes.imshow(at_most(q, most).T, origin="lower", aspect="auto", interpolation="nearest", extent=extent)
    axes.set(ylabel="mel band" if frontend.kind == "mfb" else "coefficient")


def _posteriors(axes: Any, detector: Detector, trace: Trace) -> None:
    config = detector.detection
    frontend = detector.frontend
    hop_seconds = config.hop * frontend.hop_length / frontend.sample_rate
    middles = (
        trace.windows.ends() - (frontend.clip_samples / frontend.sample_rate + (config.smoothing - 1) * hop_seconds) / 2
    )
    largest = POSTERIOR_MAX * config.smoothing
    for index, label in enumerate(keywords_of(detector.model.labels)):
        sums = np.convolve(trace.posteriors[:, index].astype(np.int64), np.ones(config.smoothing, np.int64))
        axes.plot(middles, sums[: len(middles)] / largest, linewidth=1, label=label, color=_color(index))
    for threshold in sorted(set(config.thresholds)):
        axes.axhline(threshold / largest, color="0.6", linewidth=0.8, linestyle="--")
    axes.set(ylabel="smoothed posterior", ylim=(0, 1.25), xlabel="seconds")  # room for the legend
    axes.legend(loc="upper right", ncols=10, fontsize="small")


def _events(wave: Any, curves: Any, model: Model, events: list[Event]) -> None:
    for event in events:
        color = _color(model.labels.index(event.label))
        for axes in (wave, curves):
            axes.axvspan(event.start, event.end, color=color, alpha=0.25, linewidth=0)
        middle = (event.start + event.end) / 2
        wave.annotate(
            f"{event.label} {event.score:.2f}",
            (middle, 1.0),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize="small",
        )


def _color(index: int) -> str:
    return f"C{index % 10}"


def plot_tuning(tuning: Tuning, out: Path) -> None:
    """For each keyword the share missed and the false accepts an hour at each threshold, and what was chosen.

    Raises MissingExtraError without matplotlib.
    """
    from kws.tune import LEVELS

    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("pictures need matplotlib", hint="pip install 'integer-kws[plot]'") from None
    figure = Figure(figsize=(9, 7), layout="constrained")
    missed, false = figure.subplots(2, 1, sharex=True)
    for i, keyword in enumerate(tuning.keywords):
        chosen = tuning.chosen[i]
        (line,) = missed.plot(LEVELS, 100 * (1 - tuning.found[i] / max(tuning.said[i], 1)), label=keyword)
        missed.plot(
            LEVELS[chosen], 100 * (1 - tuning.found[i, chosen] / max(tuning.said[i], 1)), "o", color=line.get_color()
        )
        false.plot(LEVELS, tuning.false[i] / tuning.hours, color=line.get_color())
        false.plot(LEVELS[chosen], tuning.false[i, chosen] / tuning.hours, "o", color=line.get_color())
    missed.set(ylabel="words missed, %", title="thresholds by keyword; dots: chosen")
    missed.legend(ncols=2, fontsize="small")
    false.set(ylabel="false accepts an hour", xlabel="threshold, of the largest sum", yscale="symlog", ylim=0)
    figure.savefig(out, dpi=_DPI, format="png")


def plot_det(curves: Mapping[str, Sequence[tuple[float, float | None]]], out: Path) -> None:
    """Detection error trade-off: (false accepts an hour, miss rate) of each keyword as its threshold rises.

    Raises MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("pictures need matplotlib", hint="pip install 'integer-kws[plot]'") from None
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    for keyword, points in curves.items():
        shown = [(false, 100 * miss) for false, miss in points if miss is not None]
        if shown:
            axes.plot(*zip(*shown, strict=True), marker=".", label=keyword)
    axes.set(xlabel="false accepts an hour", ylabel="words missed, %", xscale="symlog", xlim=0, ylim=(0, 100))
    axes.legend(ncols=2, fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(out, dpi=_DPI, format="png")
