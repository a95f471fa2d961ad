# SPDX-License-Identifier: Apache-2.0
"""`kws listen`: keywords in a live microphone, or in raw samples from standard input."""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kws.cli.common import engine_option, load_model, model_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kws.detector import Event

_BLOCK = 0.1  # seconds that are read at once
_CLIPPED_SHARE = 0.01  # of a block's samples at the end of int16
_BEHIND = 5.0  # seconds that may wait to be heard before samples are lost
_PATIENCE = 10.0  # seconds without a block: some devices take seconds to begin
_SILENT_SECONDS = 3.0  # of nothing but zeros before that is said
_LOST_SECONDS = 10.0  # of sound between two lines on lost samples
_METER = 30


@click.command()
@model_option
@engine_option
@click.option("--device", help="Number or part of the name of a microphone. [default: the system's]")
@click.option("--format", "format_", type=click.Choice(["table", "jsonl"]), default="table", show_default=True)
@click.argument("source", type=click.Choice(["-"]), required=False)
def listen(model: str, engine: str, device: str | None, format_: str, source: str | None) -> int:
    """Print keywords as they are said into a microphone. Ctrl-C ends it.

    With "-" it reads raw int16 samples, little-endian, one channel at the model's rate, from standard input:
    arecord -q -f S16_LE -r 16000 -c 1 | kws listen -
    """
    from kws.errors import UsageError

    if source and device:
        raise UsageError("--device is a microphone's, and - reads standard input")
    loaded = load_model(model, engine)
    from kws.detector import Detector

    detector = Detector(loaded)
    rate = detector.frontend.sample_rate
    state, _ = detector.step(None, _no_samples())
    watch = _Watch(rate)
    blocks = _standard_input(rate) if source else _microphone(rate, device, watch)
    try:
        for block in blocks:
            watch.see(block)
            state, events = detector.step(state, block)
            _print(events, format_)
    except KeyboardInterrupt:
        if source:  # a microphone ends so
            raise
    finally:
        watch.end()
    _print(state.finish(), format_)
    return 0


def _no_samples() -> NDArray[np.int16]:
    import numpy as np

    return np.empty(0, np.int16)


def _print(events: list[Event], format_: str) -> None:
    for e in events:
        if format_ == "jsonl":
            values = {"label": e.label, "start": round(e.start, 3), "end": round(e.end, 3), "score": round(e.score, 4)}
            click.echo(json.dumps(values))
        else:
            click.echo(f"{e.start:>8.2f} {e.end:>8.2f}  {e.label:<12} {e.score:>5.2f}")
    if events:
        sys.stdout.flush()


def _standard_input(rate: int) -> Iterator[NDArray[np.int16]]:
    import numpy as np

    from kws.errors import AudioError

    if sys.stdin is None:
        raise AudioError("is closed", where="standard input")
    size = 2 * round(_BLOCK * rate)
    held = b""
    while data := sys.stdin.buffer.read(size):
        held += data
        if held[:4] == b"RIFF":
            raise AudioError("is a WAV file, not raw samples", where="standard input", hint="kws infer FILE")
        whole = len(held) // 2 * 2
        yield np.frombuffer(held[:whole], "<i2").astype(np.int16)
        held = held[whole:]
    if held:
        click.echo("kws: standard input ended within a sample", err=True)


def _microphone(rate: int, device: str | None, watch: _Watch) -> Iterator[NDArray[np.int16]]:
    from kws.errors import AudioError, MissingExtraError

    try:
        import sounddevice
    except ImportError:
        raise MissingExtraError("a microphone needs sounddevice", hint="pip install 'integer-kws[mic]'") from None
    except OSError as error:  # its wheel for Linux brings no PortAudio
        raise MissingExtraError(f"sounddevice cannot be used: {error}", hint="install libportaudio2") from None
    except Exception as error:  # of its own type, which only the import would give, where PortAudio does not begin
        raise AudioError(f"the system's sound cannot be used: {error}") from None
    blocks: queue.Queue[NDArray[np.int16]] = queue.Queue(round(_BEHIND / _BLOCK))

    def heard(data: Any, frames: int, time: Any, status: Any) -> None:
        if status.input_overflow:
            watch.lost += 1
        try:
            blocks.put_nowait(data[:, 0].copy())
        except queue.Full:
            watch.lost += 1

    chosen: int | str | None = int(device) if device and device.isdecimal() else device
    try:
        stream = sounddevice.InputStream(
            samplerate=rate, channels=1, dtype="int16", blocksize=round(_BLOCK * rate), device=chosen, callback=heard
        )
        stream.start()
    except (sounddevice.PortAudioError, ValueError) as error:
        hint = "python -m sounddevice lists the devices"
        raise AudioError(f"no microphone gives {rate} samples a second: {error}", where=device, hint=hint) from None
    with stream:
        while True:
            try:
                yield blocks.get(timeout=_PATIENCE)
            except queue.Empty:
                what = f"the microphone has given nothing for {_PATIENCE:.0f} s: was it unplugged?"
                raise AudioError(what, where=device) from None


class _Watch:
    """A level meter on a terminal, and a line for what makes an input useless: silence, clipping, lost samples."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.lost = 0  # blocks before which the device dropped samples
        self._meter = sys.stderr is not None and sys.stderr.isatty()
        self._silent = 0
        self._said: set[str] = set()
        self._said_lost = 0
        self._quiet = 0  # samples before the next line on lost ones

    def see(self, block: NDArray[np.int16]) -> None:
        import numpy as np

        if not len(block):
            return
        peak = int(np.abs(block.astype(np.int32)).max())
        self._silent = 0 if peak else self._silent + len(block)
        if self._silent >= _SILENT_SECONDS * self.rate:
            self._say("the input is silent: is the microphone muted?")
        if np.mean((block == 32767) | (block == -32768)) > _CLIPPED_SHARE:
            self._say("the input is clipped: turn the level down")
        self._quiet -= len(block)
        if self._quiet <= 0:
            self._say_lost()
        if self._meter:
            db = 20 * np.log10(max(peak, 1) / 32768)
            bars = max(0, round(_METER * (1 + db / 60)))
            click.echo(f"\r{'#' * bars}{'.' * (_METER - bars)} {db:6.1f} dBFS ", nl=False, err=True)

    def end(self) -> None:
        """Leave the meter's line, and say what was lost since that was said."""
        if self._meter:
            click.echo("\r" + " " * (_METER + 14) + "\r", nl=False, err=True)
        self._say_lost()

    def _say_lost(self) -> None:
        if self.lost > self._said_lost:
            self._said_lost = self.lost
            self._quiet = round(_LOST_SECONDS * self.rate)
            click.echo(f"kws: samples were lost before {self.lost} blocks so far: the machine is too busy", err=True)

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            click.echo(f"kws: {line}", err=True)
