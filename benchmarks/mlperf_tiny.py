# SPDX-License-Identifier: Apache-2.0
"""The MLPerf Tiny reference network on our `mlperf-tiny` features, in three runtimes.

    python benchmarks/mlperf_tiny.py --data FOLDER --model kws_ref_model.tflite

FOLDER is the official test set of Speech Commands v0.02: twelve folders, 4,890 clips. The model is
benchmark/training/keyword_spotting/trained_models/kws_ref_model.tflite of mlcommons/tiny. Prints how many clips each
runtime gets right, in all and without on and off. It shows that reading, features and input quantization are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from host import date_and_cpu
from numpy.typing import NDArray
from tflite_micro import runtime

from features.audio import read_audio
from features.config import get_preset
from features.float_frontend import features
from features.quantize import clip_samples, quantize_features
from kws.arithmetic.quant import QuantParams

# The order of get_dataset.py in mlcommons/tiny, as folder names.
LABELS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_")
SET_ASIDE = ("on", "off")

Run = Callable[[NDArray[np.int8]], NDArray[np.int8]]


def tflm(model: bytes) -> tuple[QuantParams, Run]:
    """TensorFlow Lite Micro."""
    interpreter = runtime.Interpreter.from_bytes(model)
    details = interpreter.get_input_details(0)["quantization_parameters"]

    def run(x: NDArray[np.int8]) -> NDArray[np.int8]:
        interpreter.set_input(x, 0)
        interpreter.invoke()
        return np.asarray(interpreter.get_output(0))

    return QuantParams(float(details["scales"][0]), int(details["zero_points"][0])), run


def litert(model: bytes, resolver: OpResolverType) -> tuple[QuantParams, Run]:
    """LiteRT, with the delegates of `resolver`."""
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=resolver, num_threads=1)
    interpreter.allocate_tensors()
    source, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(x: NDArray[np.int8]) -> NDArray[np.int8]:
        interpreter.set_tensor(source["index"], x)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(output["index"]))

    scale, zero_point = source["quantization"]
    return QuantParams(float(scale), int(zero_point)), run


RUNTIMES: dict[str, Callable[[bytes], tuple[QuantParams, Run]]] = {
    "TFLM": tflm,
    "LiteRT without delegates": lambda model: litert(model, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES),
    "LiteRT default (XNNPACK)": lambda model: litert(model, OpResolverType.AUTO),
}


def clips(data: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """(label, features) of every clip."""
    config = get_preset("mlperf-tiny")
    for label in LABELS:
        paths = sorted((data / label).glob("*.wav"))
        if not paths:
            raise click.ClickException(f"{data / label} holds no .wav files")
        for path in paths:
            samples = clip_samples(read_audio(path, dtype="int16"), config.clip_samples)
            yield label, features(samples, config)


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of twelve folders.")
@click.option("--model", type=click.Path(path_type=Path, exists=True), required=True, help="kws_ref_model.tflite")
def main(data: Path, model: Path) -> None:
    names, values = zip(*clips(data), strict=True)
    labels, batch = np.array(names), np.stack(values)
    kept = ~np.isin(labels, SET_ASIDE)
    print(date_and_cpu())
    print(", ".join(f"{name} {version(name)}" for name in ("numpy", "tflite-micro", "ai-edge-litert")))
    print("python benchmarks/mlperf_tiny.py --data SPEECH_COMMANDS_TEST_SET_V0.02 --model kws_ref_model.tflite\n")
    print(f"{'clips right of':<26} {len(labels):>6,}  {kept.sum():>6,} without on and off")
    for name, make in RUNTIMES.items():
        params, run = make(model.read_bytes())
        outputs = [run(q[None, :, :, None])[0] for q in quantize_features(batch, params)]
        right = np.array(LABELS)[np.argmax(outputs, axis=1)] == labels
        print(f"{name:<26} {right.sum():>6,}  {right[kept].sum():>6,}")


if __name__ == "__main__":
    main()
