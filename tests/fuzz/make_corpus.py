# SPDX-License-Identifier: Apache-2.0
"""Makes the seeds of the fuzz targets, a folder of `corpus/` each: tiny files that load, and one each that does not.

Run: python -m tests.fuzz.make_corpus

The sound files are a few milliseconds of a tone in each format that libsndfile writes and a reader is likely to meet.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from deploy.export.tflite import export
from deploy.graph import Graph, GraphBuilder
from features.config import FrontendConfig
from kws.arithmetic.quant import QuantParams
from kws.detector import DetectionConfig
from kws.model import Model
from tests.deploy.tflite_graphs import every_op_of_tflite
from tests.fuzz.random_model import random_model

CORPUS = Path(__file__).parent / "corpus"
FORMATS = (
    ("wav", "WAV", "PCM_16"), ("wav", "WAV", "FLOAT"), ("wav", "WAV", "ULAW"), ("wav", "WAV", "IMA_ADPCM"),
    ("wav", "WAVEX", "PCM_16"), ("wav", "RF64", "PCM_16"), ("w64", "W64", "PCM_16"), ("flac", "FLAC", "PCM_16"),
    ("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"), ("mp3", "MP3", "MPEG_LAYER_III"), ("aiff", "AIFF", "PCM_16"),
    ("au", "AU", "PCM_16"), ("caf", "CAF", "ALAC_16"),
)  # fmt: skip


def every_op_model() -> Model:
    """Every op once, on 8 frames of 6 bands, with small numbers."""
    frontend = FrontendConfig(
        kind="mfb", frame_length=400, hop_length=400, n_fft=512, n_mels=6, fmin=100.0, fmax=6000.0, clip_samples=3200
    )
    rng = np.random.default_rng(5)
    relu6 = QuantParams(float(np.float32(6 / 255)), -128)

    def weight(*shape: int) -> np.ndarray:
        return rng.integers(-127, 128, shape).astype(np.int8)

    def bias(channels: int) -> np.ndarray:
        return rng.integers(-2000, 2000, channels).astype(np.int32)

    builder = GraphBuilder()
    x = builder.input(frontend.input_shape, QuantParams(0.125, 3))
    x = builder.pad(x, "p", paddings=((1, 0), (0, 0), (0, 0)))
    scales = [0.0078125, float(np.float32(0.003)), 0.00390625]
    x = builder.conv2d(x, "c", weight(3, 3, 2, 1), scales, 0, bias(3), padding=((1, 1), (0, 1)), output=relu6)
    x = builder.max_pool(x, "m", (2, 1), stride=(1, 1), padding=((0, 1), (0, 0)))
    y = builder.depthwise_conv2d(
        x, "d", weight(1, 3, 3, 3), 0.00390625, 7, None, padding=((1, 1), (1, 1)), output=relu6
    )
    x = builder.add(x, y, "a", output=QuantParams(float(np.float32(12 / 255)), -128))
    x = builder.average_pool(x, "v", (2, 2), padding=((1, 0), (0, 0)))
    left = builder.slice(x, "s", begin=(1, 0, 0), size=(4, 3, 3))
    right = builder.slice(x, "t", begin=(1, 0, 0), size=(4, 3, 1))
    x = builder.concatenation((left, right), "j", axis=2, output=QuantParams(float(np.float32(11 / 255)), -128))
    x = builder.mul(builder.logistic(builder.mean(x, "e", keep_dims=True), "l"), x, "x", output=relu6)
    flat = builder.reshape(builder.mean(x, "n", output=relu6, keep_dims=True), "r", shape=(4,))
    x = builder.fully_connected(flat, "f", weight(4, 4), 0.0078125, 2, bias(4), output=QuantParams(0.0625, 1))
    graph = builder.finish(builder.softmax(x, "o"))
    labels = ("yes", "no", "_silence_", "_unknown_")
    return Model(graph, frontend, labels, DetectionConfig.default(frontend, 2), {"seeds": [1, 0.5, None, "é"]})


def without_scales(model: Model) -> Model:
    """The same but for the scales between input and output: its multipliers can be any, so more changes of it load."""
    graph = model.graph
    tensors = {n: t if n in (graph.input, graph.output) else t.without_scale() for n, t in graph.tensors.items()}
    free: Graph = replace(graph, tensors=tensors)
    return replace(model, graph=free)


def write_models(folder: Path) -> None:
    """Three models, and one cut short."""
    folder.mkdir(parents=True, exist_ok=True)
    every_op = every_op_model()
    data = every_op.to_bytes()
    (folder / "every_op.kws").write_bytes(data)
    (folder / "no_scales.kws").write_bytes(without_scales(every_op).to_bytes())
    (folder / "random.kws").write_bytes(random_model(random.Random(4)).to_bytes())
    (folder / "bad_cut_short.kws").write_bytes(data[:700])


def write_sounds(folder: Path) -> None:
    """One file a format, one at another rate in stereo, one with a NaN, one cut short."""
    folder.mkdir(parents=True, exist_ok=True)
    tone = np.sin(2 * np.pi * 440 / 16000 * np.arange(160)) / 4
    for suffix, file_format, subtype in FORMATS:
        name = f"{file_format}_{subtype}.{suffix}".lower()
        soundfile.write(folder / name, tone, 16000, format=file_format, subtype=subtype)
    soundfile.write(folder / "stereo_44100.wav", np.stack([tone, -tone], 1), 44100)
    soundfile.write(folder / "bad_nan.wav", np.where(tone > 0.24, np.nan, tone), 16000, subtype="FLOAT")
    (folder / "bad_cut_short.wav").write_bytes((folder / "wav_pcm_16.wav").read_bytes()[:100])


def write_tflite(folder: Path) -> None:
    """A file of every op, one of a convolution and a classifier, and one cut short."""
    folder.mkdir(parents=True, exist_ok=True)
    data = export(every_op_of_tflite("tflm", power_of_two=False), list("abcde"), None)
    (folder / "every_op.tflite").write_bytes(data)
    (folder / "bad_cut_short.tflite").write_bytes(data[:700])
    builder = GraphBuilder("tflm")
    x = builder.input((5, 4, 1), QuantParams(0.125, 3))
    weight = np.arange(-9, 9, dtype=np.int8).reshape(2, 3, 3, 1)
    x = builder.conv2d(x, "c", weight, [0.125, 0.0625], 0, None, padding=((1, 1), (1, 1)), output=QuantParams(0.5, -9))
    x = builder.reshape(x, "r", shape=(40,))
    x = builder.fully_connected(x, "f", np.ones((3, 40), np.int8), 0.25, 0, None, output=QuantParams(4.0, 1))
    (folder / "small.tflite").write_bytes(export(builder.finish(x), list("abc"), None))


if __name__ == "__main__":
    write_models(CORPUS / "model")
    write_tflite(CORPUS / "tflite")
    write_sounds(CORPUS / "audio")
