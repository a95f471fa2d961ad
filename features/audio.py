# SPDX-License-Identifier: Apache-2.0
"""Any sound file -> mono samples at the network's rate. Files come from strangers: every refusal is one AudioError."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from kws.errors import AudioError, UsageError

MAX_SECONDS = 4 * 3600  # 16 kHz float32: 0.9 GB. A few bytes of FLAC can claim days of silence
_MIN_RATE, _MAX_RATE = 1_000, 1_000_000  # Hz; outside it is a broken header, and 1 Hz would swell 16,000 times
_BLOCK_VALUES = 1 << 18
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255  # bytes: header, segment table, segments
_UNRECOGNISED = 1  # SF_ERR_UNRECOGNISED_FORMAT
_MAX_FLOAT32 = np.float32(1.0 - 2.0**-24)  # the largest below full scale


def read_audio(
    path: str | Path, *, dtype: str = "float32", sample_rate: int = 16_000, notes: list[str] | None = None
) -> NDArray[Any]:
    """The recording in `path` as mono samples at `sample_rate` Hz, shape (n,), n >= 1: "float32" in [-1, 1) or "int16".

    Reads what libsndfile reads (WAV, FLAC, Ogg, Opus, MP3, AIFF, ...) at any rate and depth. Values beyond full scale
    saturate, channels are averaged, another rate is resampled (soxr, HQ); int16 is round_half_even(32768 x). Each such
    conversion appends a line to `notes`. Memory stays near the size of the result whatever the header claims.

    Raises AudioError for a file that is missing, empty, truncated, not audio, too long or not finite.
    """
    if dtype not in ("float32", "int16"):
        raise UsageError(f"dtype {dtype!r} is neither 'float32' nor 'int16'")
    path = Path(path)
    said: list[str] = []
    try:
        if not path.is_file():
            raise AudioError("is not a file" if path.exists() else "no such file", where=path)
        if path.stat().st_size == 0:
            raise AudioError("is empty", where=path)
        # A descriptor, not a name: the format is then told from the content, whatever the name ends in.
        with path.open("rb") as file, sf.SoundFile(file.fileno(), closefd=False) as sound:
            samples = _decode(sound, dtype, sample_rate, path, said)
    except sf.LibsndfileError as error:
        raise _undecoded(error.code, path) from None
    except OSError as error:
        raise AudioError(f"cannot be read: {error.strerror}", where=path) from None
    if notes is not None:
        notes.extend(f"{path}: {line}" for line in said)
    return samples


def _undecoded(code: int, path: Path) -> AudioError:
    """In our words: libsndfile's name its internals, and call a cut MP3 "does not exist or is not a regular file"."""
    if code == _UNRECOGNISED:
        what = "is no sound file, or of a kind that libsndfile does not read"
        return AudioError(f"cannot be decoded: it {what}", where=path, hint="convert it to WAV or FLAC")
    what = "is damaged, cut short, or in an encoding that libsndfile does not read"
    return AudioError(f"cannot be decoded: it {what}", where=path, hint="copy or encode it again, best as WAV or FLAC")


def _decode(sound: sf.SoundFile, dtype: str, sample_rate: int, path: Path, said: list[str]) -> NDArray[Any]:
    """All samples of an open file, mono, at `sample_rate`, in `dtype`."""
    _check_header(sound, path)
    _check_ogg_end(path)
    if sound.channels > 1:
        said.append(f"{sound.channels} channels averaged to one")
    blocks = _mono_blocks(sound, path, said)
    if sound.samplerate != sample_rate:
        said.append(f"resampled from {sound.samplerate} Hz to {sample_rate} Hz")
        blocks = _resample(blocks, sound.samplerate, sample_rate)
    content = bytearray()  # grows in place: hours of sound are never there twice
    for block in blocks:
        content += _converted(block, dtype).tobytes()
    if not content:
        raise AudioError("holds no samples", where=path)
    samples: NDArray[Any] = np.frombuffer(content, dtype)
    return samples


def _converted(block: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Half even to int16, or float32 in [-1, 1); a resampler overshoots a little."""
    clipped = np.clip(block, np.float32(-1.0), _MAX_FLOAT32)
    if dtype == "float32":
        return clipped
    rounded: NDArray[np.int16] = np.clip(np.rint(clipped * np.float32(32768.0)), -32768, 32767).astype(np.int16)
    return rounded


def _check_header(sound: sf.SoundFile, path: Path) -> None:
    if not _MIN_RATE <= sound.samplerate <= _MAX_RATE:
        raise AudioError(f"claims a sample rate of {sound.samplerate} Hz", where=path)
    if sound.frames > 1 << 62:
        raise AudioError("does not say how long it is", where=path, hint="encode it again, to a file and not to a pipe")
    # libsndfile shortens what the header claims to what the file holds, and says so in its log only.
    for claimed, held in re.findall(r"(\d+) \(should be (\d+)\)", sound.extra_info):
        if int(claimed) > int(held) + 1:  # + 1: a missing pad byte hurts nobody
            raise AudioError(
                f"is truncated: its header claims {claimed} bytes, the file holds {held}",
                where=path,
                hint="copy it again, or rewrite it with a correct header",
            )


def _check_ogg_end(path: Path) -> None:
    """AudioError for an Ogg file whose last page is cut or not marked as the stream's last: it claims no length."""
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return
        size = file.seek(0, 2)
        file.seek(max(0, size - 2 * _LARGEST_OGG_PAGE))  # so junk of up to a page behind the last one hurts nobody
        tail = file.read()
    at = tail.rfind(b"OggS\0")
    page = tail[at:] if at >= 0 else b""
    complete = len(page) >= 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
    if not complete or not page[5] & 4:
        what = "is truncated: its last Ogg page is not the end of the stream"
        raise AudioError(what, where=path, hint="copy it again, or encode it again")


def _mono_blocks(sound: sf.SoundFile, path: Path, said: list[str]) -> Iterator[NDArray[np.float32]]:
    """The channel mean, block by block. Raises AudioError on NaN, too many samples, or fewer than the header claims."""
    count, limit, rows = 0, MAX_SECONDS * sound.samplerate, max(1, _BLOCK_VALUES // sound.channels)
    beyond = 0
    while True:
        try:
            block = sound.read(rows, dtype="float32", always_2d=True)
        except ValueError:  # the decoder stands behind the end that it claims: less than no frame is left
            raise AudioError("is damaged: its positions do not fit its length", where=path) from None
        if len(block) == 0:
            break
        if not np.isfinite(block).all():
            raise AudioError("holds NaN or infinite samples", where=path)
        count += len(block)
        if count > limit:
            raise AudioError(f"is longer than {MAX_SECONDS // 3600} hours", where=path, hint="cut it into pieces")
        beyond += int(np.count_nonzero(np.abs(block) > 1.0))
        yield np.clip(block, -1.0, 1.0).mean(axis=1)
    if beyond:
        said.append(f"{beyond} values beyond full scale saturated")
    if count < sound.frames:
        what = f"is truncated: {count} of {sound.frames} frames could be decoded"
        raise AudioError(what, where=path, hint="copy or encode it again")


def _resample(blocks: Iterator[NDArray[np.float32]], source: int, target: int) -> Iterator[NDArray[np.float32]]:
    stream = soxr.ResampleStream(source, target, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)
