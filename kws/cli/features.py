# SPDX-License-Identifier: Apache-2.0
"""`kws features`: what the network sees of a recording."""

from __future__ import annotations

from pathlib import Path

import click

from kws.cli.common import PATH, PRESETS, load_model, verbose_option, writing
from kws.errors import UsageError


@click.command()
@click.argument("file", type=PATH)
@click.option("--preset", help=f"Front-end: {', '.join(PRESETS)}.  [default: mfb40]")
@click.option("--model", help="Take front-end and input domain from this model instead.")
@click.option("--png", type=PATH, help="Draw waveform, float and quantized features into this file.")
@click.option(
    "--npy",
    type=PATH,
    help="Write the float features, (frames, values) float32, into this file; into OUT.npz float, quantized, scale and "
    "zero_point, of the model's input or of this file's range.",
)
@verbose_option
def features(
    file: Path, preset: str | None, model: str | None, png: Path | None, npy: Path | None, verbose: bool
) -> None:
    """Show what the network sees of a recording, as a picture or as an array."""
    if preset and model:
        raise UsageError("--preset and --model contradict each other")
    if not png and not npy:
        raise UsageError("nothing to write", hint="give --png OUT.png, --npy OUT.npy or both")
    for out in (png, npy):
        if out and out.exists() and file.exists() and out.samefile(file):
            raise UsageError("would be written over the recording", where=out)
    import numpy as np

    from features.audio import read_audio
    from features.config import get_preset
    from features.frontend import features as compute
    from features.frontend import input_features
    from features.plot import plot_features
    from kws.arithmetic.quant import choose_params

    loaded = load_model(model) if model else None
    config = loaded.hearing()[0] if loaded else get_preset(preset or "mfb40")
    notes: list[str] = []
    samples = read_audio(file, sample_rate=config.sample_rate, notes=notes)
    for note in notes if verbose else []:
        click.echo(note, err=True)
    values = compute(samples, config)
    if len(values) == 0:
        raise UsageError(f"{len(samples)} samples are fewer than one frame of {config.frame_length}", where=file)
    params = loaded.graph.input_params if loaded else None
    if npy:
        with writing(npy), npy.open("wb") as stream:  # np.save would append .npy to another name
            if npy.suffix.lower() == ".npz":
                domain = params or choose_params(float(values.min()), float(values.max()))  # as in the picture
                q = input_features(samples, config, domain)
                np.savez(stream, float=values, quantized=q, scale=domain.scale, zero_point=domain.zero_point)
            else:
                np.save(stream, values)
    if png:
        with writing(png):
            plot_features(samples, config, png, params=params, title=file.name)
