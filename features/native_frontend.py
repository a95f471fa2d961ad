# SPDX-License-Identifier: Apache-2.0
"""The C twin of `features.fixed_frontend`: the same bits, some hundred times faster.

The structure of `deploy/c/kws_frontend.h` is built here from `FixedTables`; the extension `features._native` gets its
address. Where that was not built, `available()` is false and `features.frontend` takes NumPy.
"""

from __future__ import annotations

import ctypes
import importlib
from ctypes import c_int32, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from features.config import FrontendConfig
from features.fixed_frontend import OUTPUT, fixed_tables, peaks_of
from features.fixed_math import twiddles_q30, twiddles_q31
from kws.arithmetic.quant import QuantParams
from kws.arithmetic.requantize import quantize_multiplier
from kws.errors import UsageError

PORTABLE = "portable"  # the first of `levels()`
_MAX_SAMPLES = 1 << 28  # of one call: indices in C are int32


class _Extension(Protocol):
    """What `features._native` has to offer; addresses are integers."""

    def levels(self) -> list[str]: ...
    def structure_size(self) -> int: ...
    def frames(self, frontend: int, level: int, /) -> tuple[int, int]: ...
    def run(
        self, frontend: int, level: int, n_clips: int, clip_length: int, frames_per_clip: int,
        samples: Any, peaks: Any, output: Any, /,
    ) -> None: ...  # fmt: skip


class _Frontend(ctypes.Structure):
    _fields_ = (
        *((name, c_int32) for name in (
            "frame_length", "hop_length", "n_fft", "n_mels", "n_mfcc", "power", "log2_n_fft", "t_max",
            "floor_multiplier", "floor_exponent", "log_offset_q16",
        )),
        *((name, c_void_p) for name in (
            "window_q15", "twiddles_q30", "twiddles_q31", "mel_first", "mel_count", "mel_weights_q16", "dct_q14",
        )),
        *((name, c_int32) for name in ("multiplier", "shift", "zero_point")),
    )  # fmt: skip


@lru_cache(maxsize=1)
def _load() -> _Extension | None:
    """The extension, None where it was not built or was built from other sources."""
    try:
        extension: _Extension = importlib.import_module("features._native")
    except ImportError:
        return None
    return extension if extension.structure_size() == ctypes.sizeof(_Frontend) else None


def available() -> bool:
    """Whether the extension was built."""
    return _load() is not None


def levels() -> list[str]:
    """The instruction sets of this host that have a path, the portable code first; empty without the extension."""
    extension = _load()
    return extension.levels() if extension else []


def constants(config: FrontendConfig, params: QuantParams = OUTPUT) -> dict[str, int | NDArray[Any]]:
    """The fields of `kws_frontend` by name: integers, and arrays of the types that C has. `params` is the network's
    (S, Z)."""
    table = fixed_tables(config)
    multiplier, shift = quantize_multiplier(OUTPUT.scale / params.scale)
    return {
        "frame_length": config.frame_length, "hop_length": config.hop_length, "n_fft": config.n_fft,
        "n_mels": config.n_mels, "n_mfcc": config.n_mfcc, "power": int(config.power),
        "log2_n_fft": config.n_fft.bit_length() - 1, "t_max": table.t_max,
        "floor_multiplier": table.floor_multiplier, "floor_exponent": table.floor_exponent,
        "log_offset_q16": table.log_offset_q16, "window_q15": table.window_q15,
        "twiddles_q30": twiddles_q30(config.n_fft // 2), "twiddles_q31": twiddles_q31(config.n_fft),
        "mel_first": table.mel_first, "mel_count": table.mel_count, "mel_weights_q16": table.mel_weights_q16,
        "dct_q14": table.dct_q14, "multiplier": int(multiplier[0]), "shift": int(shift[0]),
        "zero_point": params.zero_point,
    }  # fmt: skip


@lru_cache(maxsize=32)
def _structure(config: FrontendConfig, params: QuantParams) -> tuple[_Frontend, list[NDArray[Any]]]:
    """The C structure, and the arrays that it points to."""
    structure, keep = _Frontend(), []
    for name, value in constants(config, params).items():
        if isinstance(value, np.ndarray):
            array = np.ascontiguousarray(value)
            keep.append(array)
            value = array.ctypes.data
        setattr(structure, name, value)
    return structure, keep


@dataclass(frozen=True, slots=True)
class Frames:
    """What `kws_listen` (deploy/c/kws_listen.h) takes of a front-end: addresses, bytes of work memory aligned to 64."""

    frontend: int
    function: int
    work_size: int
    keep: Any
    """What the addresses point into."""


def frames(config: FrontendConfig, params: QuantParams, *, portable: bool = False) -> Frames:
    """The front-end for a stream, the host's best or the portable one. UsageError where the extension is missing."""
    extension = _load()
    if extension is None:
        raise UsageError("the native front-end was not built")
    keep = _structure(config, params)
    frontend = ctypes.addressof(keep[0])
    return Frames(frontend, *extension.frames(frontend, 0 if portable else len(levels()) - 1), keep)


def run(
    clips: NDArray[np.int16],
    config: FrontendConfig,
    params: QuantParams | None = None,
    *,
    peak: int | None = None,
    level: str | None = None,
) -> NDArray[Any]:
    """int16 clips (B, n) -> (B, n_frames, n_features): int32 in Q16, or int8 in `params`' (S, Z) where it is given.

    `peak` is as in `fixed_frontend.features_q16`. `level`, one of `levels()`, is the best instruction set to use, by
    default the host's. UsageError for another, and where the extension is missing.
    """
    extension = _load()
    known = levels()
    if extension is None or (level is not None and level not in known):
        raise UsageError("the native front-end was not built" if extension is None else f"this host has no {level!r}")
    n_frames = config.frames_in(clips.shape[1])
    out = np.empty((len(clips), n_frames, config.n_features), np.int32 if params is None else np.int8)
    if out.size == 0:
        return out
    structure, _ = _structure(config, params or OUTPUT)
    at_once = max(1, _MAX_SAMPLES // clips.shape[1])
    for start in range(0, len(clips), at_once):
        part = np.ascontiguousarray(clips[start : start + at_once])
        peaks: Any = b""
        if config.normalize == "peak":
            peaks = peaks_of(part, config) if peak is None else np.full(len(part), peak, np.int32)
        extension.run(
            ctypes.addressof(structure), len(known) - 1 if level is None else known.index(level),
            len(part), part.shape[1], n_frames, part, peaks, out[start : start + at_once],
        )  # fmt: skip
    return out
