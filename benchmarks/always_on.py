# SPDX-License-Identifier: Apache-2.0
"""What always-on detection costs for a second of audio, beside that of others, front-end included, on one core.

    pip install pymicro-wakeword pyopen-wakeword
    python benchmarks/always_on.py [--out FILE]

One recording of data/recordings, in pieces of 80 ms as a microphone gives them, into detectors that go on from one time
to the next, in turn. CPU time of all threads, so that other work on the machine counts little: medians, and the fastest
tenth. Those that are not installed are left out and named.

* commands, columns: `Detector.step` of the model that ships: the new columns of each layer, every 40 ms.
* commands, windows: the same, all of a window of 1 s every 40 ms.
* commands in LiteRT: the same integers as a .tflite file, all of a window every 40 ms, by XNNPACK, LiteRT's default; on
  the new frames of each piece from torchaudio or from our front-end; the decision on its posteriors is ours.
* pymicro-wakeword (microWakeWord): one wake word, a network that streams every 30 ms.
* pyopen-wakeword (openWakeWord): one wake word on an embedding of speech every 80 ms, three networks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from host import date_and_cpu
from numpy.typing import NDArray
from streaming import PIECE, Windows

import kws
from deploy import native
from deploy.export.tflite import export
from features.audio import read_audio
from features.frontend import input_features
from features.torch_frontend import TorchFrontend
from kws.cli.common import columns
from kws.detector import Decider, Detector, as_posteriors
from kws.model import Model

ROOT = Path(__file__).parents[1]
ROUNDS = 30

Push = Callable[[NDArray[np.int16]], Any]
"""The next samples of a stream -> what fired, or what was decided."""
Contender = tuple[Push, int, int, str]
"""With the words that it knows, the bytes of its .tflite files, and what it runs how often."""


def tflite_of(model: Model) -> bytes:
    """The model's network, posteriors out."""
    return export(model.graph.with_softmax(), model.labels, model.frontend)


def ours(detector: Detector, what: str) -> Contender:
    state, _ = detector.step(None, np.zeros(0, np.int16))
    n_keywords = len(detector.detection.thresholds)
    return lambda samples: detector.step(state, samples)[1], n_keywords, len(tflite_of(detector.model)), what


def torchaudio_features(model: Model) -> Callable[[NDArray[np.int16]], NDArray[np.int8]]:
    """Samples -> frames in the network's input domain, in float32 up to the rounding."""
    module, params = TorchFrontend(model.hearing()[0]), model.graph.input_params

    def compute(samples: NDArray[np.int16]) -> NDArray[np.int8]:
        with torch.inference_mode():
            frames = module(torch.from_numpy(samples.astype(np.float32) / 32768)[None])[0].numpy()
        q: NDArray[np.int8] = np.clip(np.rint(frames / params.scale) + params.zero_point, -128, 127).astype(np.int8)
        return q

    return compute


def litert(model: Model, features: Callable[[NDArray[np.int16]], NDArray[np.int8]]) -> Contender:
    """A window every `hop` frames. A piece is a whole number of hops, so that each gives as many windows."""
    (frontend, detection), data = model.hearing(), tflite_of(model)
    assert PIECE % (detection.hop * frontend.hop_length) == 0
    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    source, output = (d[0]["index"] for d in (interpreter.get_input_details(), interpreter.get_output_details()))
    decider = Decider(detection)
    heard = np.zeros(frontend.frame_length - frontend.hop_length, np.int16)
    window = np.zeros((frontend.n_frames, frontend.n_features), np.int8)

    def push(samples: NDArray[np.int16]) -> list[Any]:
        nonlocal heard, window
        heard = np.concatenate([heard, samples])
        frames, fired = features(heard), []
        heard = heard[len(frames) * frontend.hop_length :]
        for first in range(0, len(frames), detection.hop):
            window = np.concatenate([window[detection.hop :], frames[first : first + detection.hop]])
            interpreter.set_tensor(source, window[None, ..., None])
            interpreter.invoke()
            fired += decider.push(as_posteriors(interpreter.get_tensor(output)))
        return fired

    return push, len(detection.thresholds), len(data), "window of 1 s, 40 ms"


def micro_wakeword() -> Contender:
    from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

    features, word = MicroWakeWordFeatures(), MicroWakeWord.from_builtin(Model.OKAY_NABU)

    def push(samples: NDArray[np.int16]) -> list[bool | None]:
        return [word.process_streaming(frame) for frame in features.process_streaming(samples.tobytes())]

    return push, 1, word.tflite_model.stat().st_size, "new columns, 30 ms"


def open_wakeword() -> Contender:
    from pyopen_wakeword import Model, OpenWakeWord, OpenWakeWordFeatures

    features, word = OpenWakeWordFeatures.from_builtin(), OpenWakeWord.from_builtin(Model.OKAY_NABU)

    def push(samples: NDArray[np.int16]) -> list[float]:
        embeddings = features.process_streaming(samples.tobytes())
        return [score for part in embeddings for score in word.process_streaming(part)]

    files = (features.mel_path, features.emb_path, Path(word.tflite_model))
    return push, 1, sum(file.stat().st_size for file in files), "window of 0.8 s, 80 ms"


def contenders() -> tuple[dict[str, Contender], list[str]]:
    """By name, and what is not installed."""
    commands = kws.load("commands")
    params = commands.graph.input_params
    frontend, _ = commands.hearing()
    found = {
        "commands, columns": ours(Detector(commands), "new columns, 40 ms"),
        "commands, windows": ours(Windows(commands), "window of 1 s, 40 ms"),
        "commands in LiteRT, torchaudio": litert(commands, torchaudio_features(commands)),
        "commands in LiteRT, our front-end": litert(commands, partial(input_features, config=frontend, params=params)),
    }
    missing = []
    for name, make in (("pymicro-wakeword", micro_wakeword), ("pyopen-wakeword", open_wakeword)):
        try:
            found[name] = make()
        except ImportError as error:
            missing.append(f"not installed: {error.name}")
    return found, missing


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--out", type=click.Path(path_type=Path), help="A file for the table.")
def main(out: Path | None) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core for C, NumPy and all their threads
    torch.set_num_threads(1)
    samples = read_audio(sorted((ROOT / "data/recordings").glob("*.wav"))[0], dtype="int16", sample_rate=16_000)
    pieces = samples[: len(samples) // PIECE * PIECE].reshape(-1, PIECE)
    found, missing = contenders()
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(ROUNDS):
        for name, (push, *_) in found.items():
            begin = time.process_time()
            for piece in pieces:
                push(piece)
            times[name].append((time.process_time() - begin) / (pieces.size / 16_000) * 1e6)
    rows = [["detection", "computes, every", "words", ".tflite bytes", "CPU us a second", "fastest tenth"]]
    for name, (_, words, size, what) in found.items():
        fast = float(np.mean(sorted(times[name])[: ROUNDS // 10]))
        rows.append([name, what, str(words), f"{size:,}", f"{np.median(times[name]):,.0f}", f"{fast:,.0f}"])
    level = native.levels()[-1]
    head = [f"{date_and_cpu()}, {level}, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"]
    text = "\n".join([*head, "python benchmarks/always_on.py", "", columns(rows, left=2), *missing])
    print(text)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
