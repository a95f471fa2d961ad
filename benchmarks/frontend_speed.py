# SPDX-License-Identifier: Apache-2.0
"""Time of the fixed-point front-end for a second of audio, one thread, beside others' on the same settings.

    pip install kaldi-native-fbank pymicro-features
    python benchmarks/frontend_speed.py [--out FILE]

All see the same ten seconds of speech of data/recordings, in turn, many times; medians, and the fastest tenth. Those
that are not installed are left out and named. pymicro-features has fixed settings of its own: 40 bands, 30 ms every
10 ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from host import date_and_cpu

from features import native_frontend
from features.audio import read_audio
from features.config import PRESETS, FrontendConfig
from features.torch_frontend import TorchFrontend
from kws.arithmetic.quant import QuantParams
from kws.cli.common import columns

ROOT = Path(__file__).parents[1]
SECONDS, ROUNDS = 10, 60


def librosa_of(config: FrontendConfig, samples: Any) -> Callable[[], object]:
    import librosa

    x = samples.astype(np.float32) / 32768
    return lambda: np.log(
        librosa.feature.melspectrogram(
            y=x, sr=16_000, n_fft=config.n_fft, win_length=config.frame_length, hop_length=config.hop_length,
            center=False, n_mels=config.n_mels, fmin=config.fmin, fmax=config.fmax, htk=True, norm=None,
        )
        + config.log_floor
    )  # fmt: skip


def kaldi_of(config: FrontendConfig, samples: Any) -> Callable[[], object]:
    import kaldi_native_fbank as knf

    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.frame_length_ms = config.frame_length / 16
    options.frame_opts.frame_shift_ms = config.hop_length / 16
    options.mel_opts.num_bins = config.n_mels
    x = (samples.astype(np.float32) / 32768).tolist()

    def compute() -> object:
        bank = knf.OnlineFbank(options)
        bank.accept_waveform(16_000, x)
        bank.input_finished()
        return [bank.get_frame(i) for i in range(bank.num_frames_ready)]

    return compute


def micro_of(config: FrontendConfig, samples: Any) -> Callable[[], object]:
    from pymicro_features import MicroFrontend

    data = samples.tobytes()

    def compute() -> object:
        frontend, position, found = MicroFrontend(), 0, []
        while position + 320 <= len(data):
            result = frontend.process_samples(data[position : position + 320])
            position += 2 * result.samples_read
            found.append(result.features)
        return found

    return compute


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--out", type=click.Path(path_type=Path), help="A file for the table.")
def main(out: Path | None) -> None:
    torch.set_num_threads(1)
    recording = read_audio(sorted((ROOT / "data/recordings").glob("*.wav"))[0], dtype="int16", sample_rate=16_000)
    samples = recording[: SECONDS * 16_000]
    rows, missing = [["preset", "front-end", "us a second", "fastest tenth", "of torchaudio's"]], set()
    for name in ("mfb40", "mfb40-10ms"):
        calls = _calls(PRESETS[name], samples, missing)
        times: dict[str, list[float]] = {label: [] for label in calls}
        for _ in range(ROUNDS):
            for label, call in calls.items():
                begin = time.perf_counter()
                call()
                times[label].append((time.perf_counter() - begin) / SECONDS * 1e6)
        base = np.median(times["torchaudio"])
        for label, values in times.items():
            fast = float(np.mean(sorted(values)[: ROUNDS // 10]))
            middle = float(np.median(values))
            rows.append([name, label, f"{middle:.1f}", f"{fast:.1f}", f"{middle / base:.2f}"])
    text = "\n".join([
        date_and_cpu(), "python benchmarks/frontend_speed.py", "", columns(rows, left=2),
        *(f"not installed: {package}" for package in sorted(missing)),
    ])  # fmt: skip
    print(text)
    if out:
        out.write_text(text + "\n")


def _calls(config: FrontendConfig, samples: Any, missing: set[str]) -> dict[str, Callable[[], object]]:
    params = QuantParams(0.0625, 3)
    calls: dict[str, Callable[[], object]] = {}
    for level in native_frontend.levels():
        calls[f"fixed, {level}, to int8"] = lambda level=level: native_frontend.run(
            samples[None], config, params, level=level
        )
    module, x = TorchFrontend(config), torch.from_numpy(samples.astype(np.float32) / 32768)[None]

    def torchaudio() -> object:
        with torch.inference_mode():
            return module(x)

    calls["torchaudio"] = torchaudio
    for label, make in (("librosa", librosa_of), ("kaldi-native-fbank", kaldi_of), ("pymicro-features", micro_of)):
        try:
            calls[label] = make(config, samples)
        except ImportError as error:
            missing.add(str(error.name))
    return calls


if __name__ == "__main__":
    main()
