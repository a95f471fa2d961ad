# SPDX-License-Identifier: Apache-2.0
"""Makes mlperf_tiny_features.*: what TensorFlow computes where our `mlperf-tiny` preset is used, for 50 clips of data/.

Run where tensorflow-cpu and soundfile are installed (not in the project's environment):

    python tests/golden/make_mlperf_tiny_features.py data tests/golden

The steps are those of get_dataset.py in mlcommons/tiny, benchmark/training/keyword_spotting, for feature_type "mfcc"
with a 30 ms window, a 20 ms stride and 10 coefficients. The clips are stored beside the features, in FLAC end to end,
because decoders of Opus may differ in the last bit.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile as sf
import tensorflow as tf

N_CLIPS = 50
SAMPLE_RATE = 16_000
SCALE, ZERO_POINT = np.float32(0.584702909), 83  # input of mlperf_tiny kws_ref_model.tflite


def tensorflow_features(samples: np.ndarray) -> np.ndarray:
    """int16 (n,), n <= 16000 -> float32 (49, 10)."""
    wav = tf.cast(samples, tf.float32)
    wav = tf.pad(wav / tf.reduce_max(wav), [[0, SAMPLE_RATE - len(samples)]])
    magnitude = tf.abs(tf.signal.stft(wav, frame_length=480, frame_step=320, window_fn=tf.signal.hann_window))
    weights = tf.signal.linear_to_mel_weight_matrix(40, magnitude.shape[-1], SAMPLE_RATE, 20.0, 4000.0)
    log_mel = tf.math.log(tf.tensordot(magnitude, weights, 1) + 1e-6)
    return tf.signal.mfccs_from_log_mel_spectrograms(log_mel)[..., :10].numpy()


def main(data: Path, out: Path) -> None:
    names = (data / "validation_list.txt").read_text().split()
    names = names[:: len(names) // N_CLIPS][:N_CLIPS]
    clips = [sf.read(data / name, dtype="int16")[0] for name in names]
    features = np.stack([tensorflow_features(clip) for clip in clips])
    quantized = np.clip(np.rint(features / SCALE + ZERO_POINT), -128, 127).astype(np.int8)
    sf.write(out / "mlperf_tiny_features_clips.flac", np.concatenate(clips), SAMPLE_RATE)
    np.savez_compressed(
        out / "mlperf_tiny_features.npz",
        names=np.array(names),
        lengths=np.array([len(clip) for clip in clips]),
        features=features,
        quantized=quantized,
    )
    (out / "mlperf_tiny_features.txt").write_text(
        f"tensorflow-cpu {version('tensorflow-cpu')}, numpy {version('numpy')}, soundfile {version('soundfile')}\n"
        "python tests/golden/make_mlperf_tiny_features.py data tests/golden\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
