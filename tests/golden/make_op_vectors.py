# SPDX-License-Identifier: Apache-2.0
"""Makes ops.npz and ops.txt: what TensorFlow Lite Micro computes for single ops, at points where they round.

Run: python tests/golden/make_op_vectors.py

Each case is a one-op TFLite file, written with the flatbuffer schema of ai-edge-litert, run in the tflite-micro wheel.
The cases are data, so that a test can build the same op as a graph; `run_tflm` also serves tests that compare live.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from tflite_micro import runtime

HERE = Path(__file__).parent
RELU6 = "relu6"


@dataclass
class Case:
    """One op and its domains. Shapes carry the batch axis, as in TFLite; (scale, zero_point) pairs are per tensor."""

    name: str
    kind: str
    shapes: list[list[int]]
    params: list[list[float]]
    output_shape: list[int]
    output: list[float]
    options: dict[str, Any] = field(default_factory=dict)
    weight: NDArray[np.int8] | None = None
    weight_scale: list[float] | None = None
    weight_zero_point: int = 0
    bias: NDArray[np.int32] | None = None


class _File:
    """A TFLite model of one operator."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers = [schema.BufferT()]
        self.graph = schema.SubGraphT()
        self.graph.tensors = []
        self.model.subgraphs = [self.graph]

    def tensor(self, name: str, shape: Any, dtype: int, params: Any = None, data: Any = None, axis: int = 0) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, list(shape), dtype
        if params is not None:
            scales, zero_points = np.atleast_1d(params[0]), np.atleast_1d(params[1])
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = [float(s) for s in scales]
            tensor.quantization.zeroPoint = [int(z) for z in np.broadcast_to(zero_points, scales.shape)]
            tensor.quantization.quantizedDimension = axis
        buffer = schema.BufferT()
        if data is not None:
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def finish(
        self, builtin: int, options_type: int, options: Any, inputs: list[int], activations: list[int], output: int
    ) -> bytes:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, builtin, 1
        self.model.operatorCodes = [code]
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = 0, inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = options_type, options
        self.graph.operators, self.graph.inputs, self.graph.outputs = [operator], activations, [output]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


# kind: (operator, options type, options class)
_OPERATORS: dict[str, tuple[int, int, Any]] = {
    kind: (
        getattr(schema.BuiltinOperator, operator),
        getattr(schema.BuiltinOptions, options or "NONE"),
        getattr(schema, f"{options}T", None),
    )
    for kind, operator, options in (
        ("conv2d", "CONV_2D", "Conv2DOptions"),
        ("depthwise_conv2d", "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"),
        ("fully_connected", "FULLY_CONNECTED", "FullyConnectedOptions"),
        ("add", "ADD", "AddOptions"),
        ("average_pool", "AVERAGE_POOL_2D", "Pool2DOptions"),
        ("max_pool", "MAX_POOL_2D", "Pool2DOptions"),
        ("mul", "MUL", "MulOptions"),
        ("mean", "MEAN", "ReducerOptions"),
        ("concatenation", "CONCATENATION", "ConcatenationOptions"),
        ("slice", "SLICE", "SliceOptions"),
        ("pad", "PAD", "PadOptions"),
        ("reshape", "RESHAPE", "ReshapeOptions"),
        ("softmax", "SOFTMAX", "SoftmaxOptions"),
        ("logistic", "LOGISTIC", ""),
    )
}


def _options(case: Case, options: Any) -> Any:
    """The fields of the operator's builtin options from `case.options`, whose names are those of the graph."""
    given = case.options
    if "stride" in given:
        options.strideH, options.strideW = given["stride"]
        options.padding = getattr(schema.Padding, given["padding"])
    if "kernel" in given:
        options.filterHeight, options.filterWidth = given["kernel"]
    if given.get("activation") == RELU6:
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU6
    if case.kind in ("conv2d", "depthwise_conv2d"):
        options.dilationHFactor = options.dilationWFactor = 1
    if case.kind == "depthwise_conv2d":
        options.depthMultiplier = case.output_shape[3] // case.shapes[0][3]
    for name in ("axis", "beta"):
        if name in given:
            setattr(options, name, given[name])
    if "keep_dims" in given:
        options.keepDims = given["keep_dims"]
    if case.kind == "reshape":
        options.newShape = case.output_shape
    return options


def to_tflite(case: Case) -> bytes:
    """The case as a TFLite file."""
    file = _File()
    types = schema.TensorType
    pairs = zip(case.shapes, case.params, strict=True)
    activations = [file.tensor(f"x{i}", shape, types.INT8, pair) for i, (shape, pair) in enumerate(pairs)]
    inputs = list(activations)
    if case.weight is not None:
        assert case.weight_scale is not None
        axis = 3 if case.kind == "depthwise_conv2d" else 0
        weight_params = (case.weight_scale, case.weight_zero_point)
        inputs.append(file.tensor("w", case.weight.shape, types.INT8, weight_params, case.weight, axis))
        bias_scale = np.float32(case.params[0][0]) * np.array(case.weight_scale, np.float32)
        assert case.bias is not None
        inputs.append(file.tensor("b", case.bias.shape, types.INT32, (bias_scale, 0), case.bias))
    for name in {"mean": ("axes",), "slice": ("begin", "size"), "pad": ("paddings",)}.get(case.kind, ()):
        values = np.array(case.options[name], np.int32)
        inputs.append(file.tensor(name, values.shape, types.INT32, data=values))
    if case.kind == "reshape":
        values = np.array(case.output_shape, np.int32)
        inputs.append(file.tensor("shape", values.shape, types.INT32, data=values))
    output = file.tensor("y", case.output_shape, types.INT8, case.output)
    builtin, options_type, options = _OPERATORS[case.kind]
    filled = _options(case, options()) if options else None
    return file.finish(builtin, options_type, filled, inputs, activations, output)


def run_tflm(case: Case, inputs: list[NDArray[np.int8]]) -> NDArray[np.int8]:
    """What TensorFlow Lite Micro computes."""
    interpreter = runtime.Interpreter.from_bytes(to_tflite(case), arena_size=1 << 20)
    for index, values in enumerate(inputs):
        interpreter.set_input(values, index)
    interpreter.invoke()
    return np.array(interpreter.get_output(0))


def cases() -> list[Case]:
    """The golden cases. Powers of two meet ties; the others have scales as training makes them."""
    third = float(np.float32(1 / 3))
    odd = float(np.float32(0.0473))
    rng = np.random.default_rng(20)

    def weights(*shape: int, limit: int = 127) -> NDArray[np.int8]:
        return rng.integers(-limit, limit + 1, shape).astype(np.int8)

    def bias(channels: int) -> NDArray[np.int32]:
        return rng.integers(-900, 900, channels).astype(np.int32)

    half = [0.5, -3]
    conv = {"shapes": [[1, 9, 7, 3]], "params": [[0.5, 5]], "output": [1.0, -7]}  # M = 1/8 and 1/4
    pool = {"shapes": [[1, 9, 8, 16]], "params": [half], "output": half}
    same, valid = "SAME", "VALID"
    return [
        Case("conv_pow2", "conv2d", output_shape=[1, 5, 4, 8], options={"stride": [2, 2], "padding": same},
             weight=weights(8, 4, 3, 3, limit=3), weight_scale=[0.25, 0.5] * 4, bias=bias(8), **conv),
        Case("conv_relu6", "conv2d", [[1, 9, 7, 3]], [[third, 5]], [1, 6, 5, 8], [0.03125, -100],
             {"stride": [1, 1], "padding": valid, "activation": RELU6},
             weights(8, 4, 3, 3), [odd / 64] * 8, 0, bias(8)),
        Case("depthwise_pow2", "depthwise_conv2d", output_shape=[1, 9, 7, 6],
             options={"stride": [1, 1], "padding": same},
             weight=weights(1, 4, 2, 6, limit=5), weight_scale=[0.25] * 6, bias=bias(6), **conv),
        Case("fully_connected_pow2", "fully_connected", [[32, 40]], [[0.5, 5]], [32, 12], [0.5, -7],
             weight=weights(12, 40, limit=3), weight_scale=[0.125], bias=bias(12)),
        Case("fully_connected_affine", "fully_connected", [[32, 40]], [[odd, 5]], [32, 12], [third, -7],
             weight=weights(12, 40), weight_scale=[odd], weight_zero_point=9, bias=bias(12)),
        Case("add_pow2", "add", [[1, 32, 32, 1]] * 2, [[0.5, 3], [0.125, -128]], [1, 32, 32, 1], [1.0, 7]),
        Case("add_equal_scales", "add", [[1, 32, 32, 1]] * 2, [[0.5, -1], [0.5, 4]], [1, 32, 32, 1], [1.0, -9]),
        Case("add_relu6", "add", [[1, 32, 32, 1]] * 2, [[odd, 3], [third, 17]], [1, 32, 32, 1], [0.03125, -100],
             {"activation": RELU6}),
        Case("average_pool_same", "average_pool", output_shape=[1, 5, 4, 16],
             options={"kernel": [3, 4], "stride": [2, 2], "padding": same}, **pool),
        Case("average_pool_global", "average_pool", output_shape=[1, 1, 1, 16],
             options={"kernel": [9, 8], "stride": [9, 8], "padding": valid}, **pool),
        Case("average_pool_ties", "average_pool", output_shape=[1, 4, 4, 16],
             options={"kernel": [2, 2], "stride": [2, 2], "padding": valid, "activation": RELU6}, **pool),
        Case("max_pool", "max_pool", output_shape=[1, 5, 4, 16],
             options={"kernel": [3, 4], "stride": [2, 2], "padding": same, "activation": RELU6}, **pool),
        Case("mean_ties", "mean", [[1, 4, 2, 256]], [half], [1, 256], half, {"axes": [1, 2], "keep_dims": False}),
        Case("mean_pow2", "mean", [[1, 4, 4, 256]], [half], [1, 1, 1, 256], [0.125, 20],
             {"axes": [1, 2], "keep_dims": True}),
        Case("mean_odd", "mean", [[1, 7, 5, 256]], [[odd, 77]], [1, 256], [odd / 4, -128],
             {"axes": [1, 2], "keep_dims": False}),
        Case("concatenation", "concatenation", [[1, 4, 3, 5], [1, 4, 3, 2]], [half, half], [1, 4, 3, 7], half,
             {"axis": 3}),
        Case("concatenation_time", "concatenation", [[1, 4, 3, 5], [1, 1, 3, 5]], [half, half], [1, 5, 3, 5], half,
             {"axis": 1}),
        Case("slice", "slice", [[1, 9, 8, 16]], [half], [1, 4, 7, 3], half,
             {"begin": [0, 5, 0, 2], "size": [1, 4, 7, 3]}),
        Case("pad", "pad", [[1, 3, 4, 2]], [[odd, 77]], [1, 6, 5, 2], [odd, 77],
             {"paddings": [[0, 0], [1, 2], [0, 1], [0, 0]]}),
        Case("reshape", "reshape", [[1, 3, 4, 2]], [half], [1, 24], half),
        *(
            Case(f"softmax_{index}", "softmax", [[128, n]], [[scale, 11]], [128, n], [1 / 256, -128], {"beta": 1.0})
            for index, (n, scale) in enumerate(
                [(2, 0.125), (2, odd), (12, 0.0625), (12, third), (12, 2.5), (3, 0.001), (64, 0.03125), (12, 20.0)]
            )
        ),
        Case("mul_pow2", "mul", [[1, 32, 32, 1]] * 2, [[0.5, 3], [0.125, -9]], [1, 32, 32, 1], [4.0, 7]),
        Case("mul_channels", "mul", [[1, 9, 8, 16], [1, 1, 1, 16]], [[0.25, -1], [0.25, -4]], [1, 9, 8, 16], [2.0, -9]),
        Case("mul_channels_first", "mul", [[1, 1, 1, 16], [1, 9, 8, 16]], [[1 / 256, -128], [odd, 77]], [1, 9, 8, 16],
             [odd, 3]),
        Case("mul_relu6", "mul", [[1, 32, 32, 1]] * 2, [[odd, 3], [third, 17]], [1, 32, 32, 1], [0.03125, -100],
             {"activation": RELU6}),
        *(
            Case(f"logistic_{index}", "logistic", [[1, 256]], [[scale, z]], [1, 256], [1 / 256, -128])
            for index, (scale, z) in enumerate(
                [(2.0**-k, z) for k, z in zip((-34, -5, -4, -3, 0, 3, 4, 5, 8, 12, 28), (0, 3) * 6, strict=False)]
                + [(odd, -128), (third, 11), (0.0999, 127), (7.6, -7)]
            )
        ),
    ]  # fmt: skip


def inputs_of(case: Case, rng: np.random.Generator) -> list[NDArray[np.int8]]:
    """Random int8 with the type's ends among them; for softmax also rows of equal and of far apart values,
    for logistic all of them."""
    arrays = [rng.integers(-128, 128, shape).astype(np.int8) for shape in case.shapes]
    for array in arrays:
        array.reshape(-1)[:4] = (-128, 127, -128, 127)
    if case.kind == "logistic":
        arrays[0][:] = np.arange(-128, 128)
    if case.kind == "softmax":
        arrays[0][1:3] = ((5,), (-128,))
        arrays[0][3:64] = rng.integers(100, 128, arrays[0][3:64].shape)
    return arrays


def main() -> None:
    rng = np.random.default_rng(10)
    arrays: dict[str, Any] = {}  # all are arrays; savez has keywords of its own among its names
    descriptions = []
    for case in cases():
        values = asdict(case)
        for name in ("weight", "bias"):
            constant = values.pop(name)
            if constant is not None:
                arrays[f"{case.name}/{name}"] = constant
        descriptions.append(values)
        inputs = inputs_of(case, rng)
        for index, array in enumerate(inputs):
            arrays[f"{case.name}/x{index}"] = array
        arrays[f"{case.name}/y"] = run_tflm(case, inputs)
    np.savez_compressed(HERE / "ops.npz", cases=np.array(json.dumps(descriptions)), **arrays)
    (HERE / "ops.txt").write_text(
        "Single ops in TensorFlow Lite Micro: inputs, constants and outputs.\n"
        f"Tools: tflite-micro {version('tflite-micro')}, ai-edge-litert {version('ai-edge-litert')} (schema)\n"
        "Command: python tests/golden/make_op_vectors.py\n"
    )


if __name__ == "__main__":
    main()
