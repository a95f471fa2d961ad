# SPDX-License-Identifier: Apache-2.0
"""What TensorFlow Lite derives from a file, as its runtimes do it, for the exporter and the importer alike."""

from __future__ import annotations

import numpy as np

from deploy.ops.base import Pair
from kws.arithmetic.quant import QuantParams

METADATA = "integer_kws"
"""The metadata entry of our exports: JSON of version, rounding, labels, front-end, detection and the input's (S, Z)."""
METADATA_VERSION = 1

FULL_CLAMP: Pair = (-128, 127)


def fused_activations(params: QuantParams) -> dict[str, Pair]:
    """The clamp of each fused activation in `params`: Z + round(r / S), the quotient in float32, half away.

    One whose end no int32 holds is left out.
    """
    scale, zero_point = np.float32(params.scale), params.zero_point
    found = {"NONE": FULL_CLAMP}
    for name, low, high in (("RELU", 0, None), ("RELU_N1_TO_1", -1, 1), ("RELU6", 0, 6)):
        ends = [0 if r is None else float(np.float32(r) / scale) for r in (low, high)]
        if max(map(abs, ends)) < 1 << 30:
            q_low, q_high = (zero_point + int(np.copysign(np.floor(abs(end) + 0.5), end)) for end in ends)
            found[name] = max(-128, q_low), 127 if high is None else min(127, q_high)
    return found


def same_padding(size: int, kernel: int, stride: int) -> tuple[Pair, int]:
    """SAME along one axis: (before, after), the smaller half before, and the size of the output."""
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return (total // 2, total - total // 2), out
