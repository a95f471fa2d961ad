# SPDX-License-Identifier: Apache-2.0
"""Sliding windows over (H, W): the shape rule and the padded views that convolutions and pools share."""

from __future__ import annotations

import numpy as np

from deploy.ops.base import Padding, Pair
from deploy.tensor import MAX_ELEMENTS, IntArray, Shape
from kws.errors import ModelError


def window_shape(shape: Shape, kernel: Pair, stride: Pair, padding: Padding) -> Pair:
    """(H, W) of the output: floor((size + before + after - kernel) / stride) + 1 along each axis.

    ModelError for a stride or kernel below 1, a negative padding, a padding as large as the kernel (an output that sees
    nothing but padding), a kernel larger than the padded input, or a padded input of more than MAX_ELEMENTS.
    """
    if len(shape) != 3:
        raise ModelError(f"input of shape {shape} is not (H, W, C)")
    sizes, elements = [], shape[2]
    for axis, size in enumerate(shape[:2]):
        before, after = padding[axis]
        if stride[axis] < 1 or kernel[axis] < 1:
            raise ModelError(f"stride {stride} and kernel {kernel} must be at least 1")
        if not (0 <= before < kernel[axis] and 0 <= after < kernel[axis]):
            raise ModelError(f"padding {padding} is not in [0, kernel) for kernel {kernel}")
        elements *= size + before + after
        room = size + before + after - kernel[axis]
        if room < 0:
            raise ModelError(f"kernel {kernel} is larger than the padded input, {shape} and {padding}")
        sizes.append(room // stride[axis] + 1)
    if elements > MAX_ELEMENTS:
        raise ModelError(f"input {shape} with padding {padding} has more than {MAX_ELEMENTS} elements")
    return sizes[0], sizes[1]


def pad_hw(x: IntArray, padding: Padding, value: int) -> IntArray:
    """(N, H, W, C) with `value` around H and W."""
    if padding == ((0, 0), (0, 0)):
        return x
    return np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value)


def windows(x: IntArray, kernel: Pair, stride: Pair) -> IntArray:
    """A view (N, out H, out W, C, kernel H, kernel W) of (N, H, W, C), already padded."""
    view = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2), subok=True)
    return view[:, :: stride[0], :: stride[1]]


def tap(x: IntArray, row: int, column: int, out: Shape, stride: Pair) -> IntArray:
    """A view (N, out H, out W, C): what position (row, column) of the kernel sees at every output."""
    return x[
        :,
        row : row + (out[0] - 1) * stride[0] + 1 : stride[0],
        column : column + (out[1] - 1) * stride[1] + 1 : stride[1],
    ]
