# SPDX-License-Identifier: Apache-2.0
"""`kws evaluate --stream`: misses, false accepts an hour and latency of a detector, under several conditions."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kws.cli.common import check_output, check_picture, columns, progress, writing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kws.model import Model

DET_SUFFIX = ".det.json"  # of the numbers beside the picture


def run_streams(
    model: Model, *, stream: Path | None, negatives: Path | None, tolerance_ms: int | None, det: Path | None,
    noise: Path | None, snr: str | None, gain: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Evaluate, print, draw; the exit code."""
    from kws.errors import UsageError
    from kws.stream_evaluate import evaluate_streams, mixed

    if det and det.suffix != ".png":
        raise UsageError("is no name for a PNG", where=det)
    check_picture(det)
    check_output(det and det.with_suffix(DET_SUFFIX))
    if (noise is None) != (snr is None):
        raise UsageError("--noise and --snr belong together")
    gains = [0.0] if gain is None else _numbers(gain, "--gain")
    ratios = [None] if snr is None else _numbers(snr, "--snr")
    tolerance = 0.3 if tolerance_ms is None else tolerance_ms / 1000
    noise_broken: list[str] = []
    sound = _sound(noise, model.hearing()[0].sample_rate, noise_broken) if noise else None
    conditions: list[dict[str, Any]] = []
    broken: tuple[str, ...] = ()
    for ratio in ratios:
        for gain_db in gains:
            plain = ratio is None and gain_db == 0.0
            change = None if plain else partial(mixed, noise=sound, snr_db=ratio, gain_db=gain_db)
            with progress("listening") as update:
                result = evaluate_streams(model, stream, negatives, tolerance=tolerance, change=change, progress=update)
            conditions.append({"snr_db": ratio, "gain_db": gain_db, **result.to_dict()})
            broken = result.broken
    if as_json:
        click.echo(json.dumps(conditions[0] if len(conditions) == 1 else conditions, indent=2))
    else:
        click.echo("\n\n".join(table(condition) for condition in conditions))
    broken = (*noise_broken, *broken)
    for line in broken:
        click.echo(f"kws: {line}", err=True)
    if det:
        _det(model, stream, negatives, tolerance, det)
    return 1 if broken else 0


def _sound(noise: Path, sample_rate: int, broken: list[str]) -> NDArray[Any]:
    """The noise of a file, or of a folder's files one after the other; `broken` gets a line for each of no use."""
    import numpy as np

    from features.audio import read_audio
    from kws.errors import AudioError
    from kws.stream_evaluate import recordings_in

    found = []
    for file in recordings_in(noise, broken) if noise.is_dir() else [noise]:
        try:
            found.append(read_audio(file, dtype="int16", sample_rate=sample_rate))
        except AudioError as error:
            broken.append(str(error))
    if not found:
        raise AudioError(f"no noise can be read, the first: {broken[0]}")
    sound = np.concatenate(found)
    if not sound.any():
        raise AudioError("is silent: it cannot be mixed in at a ratio", where=noise)
    return sound


def table(figures: dict[str, Any]) -> str:
    """The figures of one condition for people to read."""
    rows = [["keyword", "said", "missed", "false", "latency, median", "95 %"]]
    every = {**figures["by_keyword"], "all": figures}
    for keyword, of in every.items():
        times = [f"{of[name]:.2f} s" if of[name] is not None else "-" for name in ("latency_median", "latency_p95")]
        rows.append([keyword, str(of["said"]), str(of["missed"]), str(of["false_accepts"]), *times])
    condition = [f"noise at {figures['snr_db']:g} dB"] if figures["snr_db"] is not None else []
    condition += [f"gain {figures['gain_db']:g} dB"] if figures["gain_db"] else []
    lines = [", ".join(condition), ""] if condition else []
    lines += [columns(rows), ""]
    if figures["said"]:
        low, high = figures["miss_rate_ci95"]
        share = 100 * figures["miss_rate"]
        lines.append(f"missed         {share:.2f} % [{100 * low:.2f}, {100 * high:.2f}] of {figures['said']} words")
    rate, bound = figures["false_accepts_per_hour"], figures["false_accepts_per_hour_upper95"]
    if rate is None:
        return "\n".join([*lines, "no recording could be read"])
    lines.append(
        f"false accepts  {rate:.2f} an hour, at most {bound:.2f} with 95 % confidence: {figures['false_accepts']} in "
        f"{figures['hours']:.2f} hours"
    )
    if figures["false_accepts_are_an_upper_bound"]:
        lines.append("               some segments are not written down: a false accept there may be a true word")
    return "\n".join(lines)


def _numbers(text: str, option: str) -> list[Any]:
    from kws.errors import UsageError

    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} {text!r} is not numbers with commas between") from None
    if not all(abs(value) <= 200 for value in values):
        raise UsageError(f"{option} {text!r} is beyond 200 dB")
    return values


def _det(model: Model, stream: Path | None, negatives: Path | None, tolerance: float, out: Path) -> None:
    """The curves of all keywords, as a picture and as JSON beside it."""
    from kws.plot import plot_det
    from kws.stream_evaluate import DET_SHARES, det_curves

    with progress("thresholds") as update:
        curves = det_curves(model, stream, negatives, tolerance=tolerance, progress=update)
    values = {
        keyword: [
            {"threshold": share, "false_accepts_per_hour": false, "miss_rate": miss}
            for share, (false, miss) in zip(DET_SHARES, points, strict=True)
        ]
        for keyword, points in curves.items()
    }
    numbers = out.with_suffix(DET_SUFFIX)
    with writing(numbers):
        numbers.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    with writing(out):
        plot_det(curves, out)
