# SPDX-License-Identifier: Apache-2.0
"""What a front-end computes, as data: `FrontendConfig`, its presets, and the checks that a stranger's file needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from kws.errors import ModelError, UsageError

MAX_CLIP_SECONDS = 30
MAX_N_FFT = 8192
MAX_N_MELS = 256
MAX_FEATURES = 1 << 20  # of a clip: hundreds of windows are in memory at once


@dataclass(frozen=True, slots=True)
class FrontendConfig:
    """One front-end: samples -> frames -> spectrum -> mel bands -> natural log -> (DCT).

    Frames are taken without centring or padding: frame i covers samples i * hop_length up to i * hop_length +
    frame_length - 1. Every frame is multiplied by a periodic Hann window and zero-padded to `n_fft`. Lengths are in
    samples, frequencies in Hz.

    Raises ModelError, which names the field, when the values do not make a front-end.
    """

    kind: str
    """"mfb" (log-mel bands) or "mfcc" (their first `n_mfcc` DCT coefficients)."""
    frame_length: int
    hop_length: int
    n_fft: int
    n_mels: int
    fmin: float
    fmax: float
    sample_rate: int = 16_000
    clip_samples: int = 16_000
    """Length of what the network sees at once."""
    power: float = 2.0
    """Exponent of the magnitude spectrum: 1.0 magnitude, 2.0 power."""
    mel_scale: str = "htk"
    """"htk" or "slaney", as in librosa and torchaudio."""
    mel_triangles: str = "hz"
    """Triangles linear in "hz" (librosa, torchaudio) or in "mel" with the DC bin zero (tf.signal)."""
    log_floor: float = 1e-6
    """Added to the mel bands before the logarithm."""
    log_offset: float = 0.0
    """Added after the logarithm: puts the mean level of speech near 0, which is what a convolution's padding holds."""
    n_mfcc: int = 0
    """Coefficients kept, from 0 upward; 0 for "mfb"."""
    dct_norm: str = "ortho"
    """"ortho" (scipy, librosa, torchaudio) or "htk": sqrt(2 / n_mels) times every row, row 0 as well (tf.signal)."""
    arithmetic: str = "fixed"
    """"fixed": integers, as a device computes them, from samples of int16; "float": float64 up to the quantization."""
    normalize: str = "none"
    """"peak" divides the samples by their largest value, where that is positive; it needs the whole clip."""

    def __post_init__(self) -> None:
        for name in ("frame_length", "hop_length", "n_fft", "n_mels", "n_mfcc", "sample_rate", "clip_samples"):
            _require(type(getattr(self, name)) is int, name, f"is {getattr(self, name)!r}, not an integer")
        for name in ("fmin", "fmax", "power", "log_floor", "log_offset"):
            value = getattr(self, name)
            _require(type(value) in (int, float) and math.isfinite(value), name, f"is {value!r}, not a number")
            object.__setattr__(self, name, float(value))
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            _require(value in choices, name, f"is {value!r}, not one of {', '.join(map(repr, choices))}")
        self._check_ranges()

    def _check_ranges(self) -> None:
        _check_range("sample_rate", self.sample_rate, 8_000, 48_000)
        _check_range("n_fft", self.n_fft, 64, MAX_N_FFT)
        _require(self.n_fft & (self.n_fft - 1) == 0, "n_fft", f"is {self.n_fft}, not a power of two")
        _check_range("frame_length", self.frame_length, 16, self.n_fft)
        _check_range("hop_length", self.hop_length, 1, self.frame_length)
        _check_range("clip_samples", self.clip_samples, self.frame_length, MAX_CLIP_SECONDS * self.sample_rate)
        _check_range("n_mels", self.n_mels, 1, MAX_N_MELS)
        _check_range("fmin", self.fmin, 0.0, self.sample_rate / 2)
        _check_range("fmax", self.fmax, 0.0, self.sample_rate / 2)
        _require(self.fmin < self.fmax, "fmax", f"is {self.fmax}, not above fmin {self.fmin}")
        _check_range("log_floor", self.log_floor, 1e-12, 1.0)
        _check_range("log_offset", self.log_offset, -30.0, 30.0)
        _check_range("n_mfcc", self.n_mfcc, 1 if self.kind == "mfcc" else 0, self.n_mels if self.kind == "mfcc" else 0)

        size = self.n_frames * self.n_features
        _require(
            size <= MAX_FEATURES, "hop_length", f"is {self.hop_length}: {size} features a clip, over {MAX_FEATURES}"
        )

    @property
    def n_frames(self) -> int:
        """Frames of one clip."""
        return self.frames_in(self.clip_samples)

    @property
    def n_features(self) -> int:
        """Values of one frame."""
        return self.n_mfcc if self.kind == "mfcc" else self.n_mels

    @property
    def n_bins(self) -> int:
        """Bins of the one-sided spectrum."""
        return self.n_fft // 2 + 1

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one clip's features as the network takes them: (n_frames, n_features, 1)."""
        return self.n_frames, self.n_features, 1

    def frames_in(self, n_samples: int) -> int:
        """Number of whole frames in `n_samples` samples; 0 when they are fewer than one frame."""
        return max(0, 1 + (n_samples - self.frame_length) // self.hop_length)

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, fit for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: object) -> FrontendConfig:
        """The front-end that `to_dict` wrote. Raises ModelError for an unknown, missing or impossible field."""
        if not isinstance(values, dict):
            raise ModelError(f"is a {type(values).__name__}, not an object", where="frontend")
        names = {field.name for field in fields(cls)}
        for name in sorted(map(str, values.keys() ^ names)):
            raise ModelError("is missing" if name in names else "is unknown", where=f"frontend.{name[:40]}")
        return cls(**values)


_CHOICES: dict[str, tuple[object, ...]] = {
    "kind": ("mfb", "mfcc"),
    "arithmetic": ("fixed", "float"),
    "power": (1.0, 2.0),
    "mel_scale": ("htk", "slaney"),
    "mel_triangles": ("hz", "mel"),
    "dct_norm": ("ortho", "htk"),
    "normalize": ("none", "peak"),
}


def _require(condition: bool, name: str, problem: str) -> None:
    if not condition:
        raise ModelError(problem, where=f"frontend.{name}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    _require(low <= value <= high, name, f"is {value}, outside [{low}, {high}]")


PRESETS: dict[str, FrontendConfig] = {
    # For small networks that stream: a decision every 20 ms costs half of one every 10; 80 Hz leaves DC, rumble and
    # mains hum outside; the floor lies near a microphone's own noise, so digital silence is no outlier to the scale.
    # The mean over Speech Commands clips is -6.4 before the offset.
    "mfb40": FrontendConfig(
        kind="mfb", frame_length=480, hop_length=320, n_fft=512, n_mels=40, fmin=80.0, fmax=7600.0,
        log_floor=1e-5, log_offset=6.0,
    ),
    # Twice as many frames, for networks that are 1-D over time: it costs them little and tells consonants apart better.
    "mfb40-10ms": FrontendConfig(
        kind="mfb", frame_length=480, hop_length=160, n_fft=512, n_mels=40, fmin=80.0, fmax=7600.0,
        log_floor=1e-5, log_offset=6.0,
    ),
    # Arm's keyword-spotting front-end in shape, with librosa's and torchaudio's usual spectrum and DCT.
    "mfcc10": FrontendConfig(
        kind="mfcc", frame_length=640, hop_length=320, n_fft=1024, n_mels=40, fmin=20.0, fmax=4000.0, n_mfcc=10
    ),
    # The front-end of the MLPerf Tiny keyword-spotting reference (mlcommons/tiny, keyword_spotting/get_dataset.py).
    "mlperf-tiny": FrontendConfig(
        kind="mfcc", frame_length=480, hop_length=320, n_fft=512, n_mels=40, fmin=20.0, fmax=4000.0, n_mfcc=10,
        power=1.0, mel_triangles="mel", dct_norm="htk", normalize="peak", arithmetic="float",
    ),
}  # fmt: skip


def get_preset(name: str) -> FrontendConfig:
    """The preset called `name`. Raises UsageError that lists the choices."""
    try:
        return PRESETS[name]
    except KeyError:
        raise UsageError(f"no preset {name!r}", hint=f"choose one of {', '.join(PRESETS)}") from None
