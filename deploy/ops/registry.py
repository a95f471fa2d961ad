# SPDX-License-Identifier: Apache-2.0
"""The ops that a graph may hold, by kind. A new op is one file and one line here."""

from __future__ import annotations

from deploy.ops.add import Add
from deploy.ops.average_pool import AveragePool
from deploy.ops.base import OpAttributes
from deploy.ops.concatenation import Concatenation
from deploy.ops.conv2d import Conv2d
from deploy.ops.depthwise_conv2d import DepthwiseConv2d
from deploy.ops.fully_connected import FullyConnected
from deploy.ops.logistic import Logistic
from deploy.ops.max_pool import MaxPool
from deploy.ops.mean import Mean
from deploy.ops.mul import Mul
from deploy.ops.pad import Pad
from deploy.ops.reshape import Reshape
from deploy.ops.slice import Slice
from deploy.ops.softmax import Softmax

OPS: dict[str, type[OpAttributes]] = {
    op.kind: op
    for op in (
        Conv2d,
        DepthwiseConv2d,
        FullyConnected,
        Add,
        Mul,
        AveragePool,
        MaxPool,
        Mean,
        Concatenation,
        Slice,
        Pad,
        Reshape,
        Logistic,
        Softmax,
    )
}
