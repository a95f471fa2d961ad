# SPDX-License-Identifier: Apache-2.0
"""A picture of a detection: waveform, features, posteriors and events on one time axis."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.float_frontend import features, to_float64
from features.quantize import quantize_features
from kws.detector import POSTERIOR_MAX, Trace, keywords_of
from kws.errors import MissingExtraError

if TYPE_CHECKING:
    from kws.model import Model

_INCHES_A_SECOND = 0.5


def plot_detection(samples: NDArray[Any], model: Model, trace: Trace, out: str | Path, *, title: str = "") -> None:
    """Write the picture of `samples` (n,) and what `Detector.trace` found in them to the PNG file `out`.

    A posterior is drawn where its window has its middle. MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("pictures need matplotlib", hint="pip install 'integer-kws[plot]'") from None
    seconds = len(samples) / model.frontend.sample_rate
    width = min(60.0, max(10.0, _INCHES_A_SECOND * seconds))
    figure = Figure(figsize=(width, 7.5), layout="constrained")
    wave, image, curves = figure.subplots(3, 1, sharex=True)
    figure.suptitle(title)
    waveform = to_float64(samples)
    wave.plot(np.arange(len(waveform)) / model.frontend.sample_rate, waveform, linewidth=0.5, color="0.4")
    wave.set(ylabel="waveform", xlim=(0, seconds))
    _features(image, samples, model)
    _posteriors(curves, model, trace)
    _events(wave, curves, model, trace)
    figure.savefig(out, dpi=100, format="png")


def _features(axes: Any, samples: NDArray[Any], model: Model) -> None:
    """What the network sees, in integers; for a front-end that normalizes each clip, the whole recording at once."""
    q = quantize_features(features(samples, model.frontend), model.graph.input_params)
    if len(q):
        seconds = len(q) * model.frontend.hop_length / model.frontend.sample_rate
        extent = (0, seconds, -0.5, q.shape[1] - 0.5)
        axes.imshow(q.T, origin="lower", aspect="auto", interpolation="nearest", extent=extent)
    axes.set(ylabel="mel band" if model.frontend.kind == "mfb" else "coefficient")


def _posteriors(axes: Any, model: Model, trace: Trace) -> None:
    middles = trace.window_ends - model.frontend.clip_samples / model.frontend.sample_rate / 2
    for index, label in enumerate(keywords_of(model.labels)):
        axes.plot(middles, trace.posteriors[:, index] / POSTERIOR_MAX, linewidth=1, label=label, color=_color(index))
    axes.set(ylabel="posterior", ylim=(0, 1.05), xlabel="seconds")
    axes.legend(loc="upper right", ncols=6, fontsize="small")


def _events(wave: Any, curves: Any, model: Model, trace: Trace) -> None:
    for event in trace.events:
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
