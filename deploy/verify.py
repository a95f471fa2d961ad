# SPDX-License-Identifier: Apache-2.0
"""Who must equal whom: a graph in every engine, against the NumPy executor under the rule that the engine speaks.

docs/design.md has the table that decides. An engine is a name and a call from a graph and its int8 inputs to int8
outputs; PyTorch's is handed in by the caller, as nothing here may import it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from deploy import boards, native, reference
from deploy.export import onnx, tflite
from deploy.graph import Graph, Op
from deploy.ops.conv2d import Conv2d
from deploy.ops.depthwise_conv2d import DepthwiseConv2d
from deploy.ops.fully_connected import FullyConnected
from deploy.program import ROUNDING
from deploy.tensor import IntArray
from deploy.tflite_runtimes import run_tflite
from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.arithmetic.requantize import Requant
from kws.errors import KwsError, MissingExtraError

Int8 = NDArray[np.int8]
Run = Callable[[Graph, Int8], Int8]

OP_INPUTS = 64
"""Inputs over which ops are compared one by one."""
BOARD_INPUTS = 8
"""Inputs that an emulated board has time for."""
FLOAT32_ROUNDINGS = 8
"""Float32 roundings that an engine may make between the exact sum and the rounding to an integer."""


@dataclass(frozen=True)
class Engine:
    """`run` is compared with NumPy under each of `rules`, and must be equal in every bit where `equal` says so.

    `ops` says what convolution, depthwise and fully connected ops must be under the first rule, each from NumPy's
    inputs: equal, or different only beside a tie, where float32 cannot see the side.
    """

    name: str
    run: Run
    rules: tuple[str, ...]
    equal: bool = False
    ops: Literal["", "equal", "ties"] = ""
    most: int | None = None
    """Inputs that it takes of those given, spread evenly; None: all."""


@dataclass(frozen=True)
class Row:
    """One comparison: `part` is "logits", "softmax" or "ops"."""

    engine: str
    rule: str
    part: str
    inputs: int
    values: int
    different: int
    largest: int
    argmax_changes: int | None
    """None for ops."""
    verdict: str
    """reference, equal, ties, counted, DIFFERS, FAILED, nothing (no op of the kind), refused or not installed."""
    note: str = ""

    @property
    def failed(self) -> bool:
        """Whether a pair that must be equal is not, or a runtime refused what we wrote for it."""
        return self.verdict in ("DIFFERS", "FAILED")


def engines() -> list[Engine]:
    """Every engine on this host but NumPy and PyTorch."""
    levels = native.levels() or ["portable"]
    return [
        *(Engine(f"C {level}", _native(level), tuple(ROUNDING), equal=True) for level in levels),
        Engine("TFLM", _tflite("tflm"), ("tflm",), equal=True),
        Engine("LiteRT reference kernels", _tflite("litert-reference"), ("tflm",)),
        Engine("LiteRT without delegates", _tflite("litert-no-delegate"), ("double_up",), ops="equal"),
        Engine("LiteRT default", _tflite("litert"), ("half_even", "single"), ops="ties"),
        Engine("ONNX Runtime", run_onnx, ("half_even", "single"), ops="ties"),
        Engine("ONNX Runtime, QDQ", run_qdq, ("half_even", "single"), ops="ties"),
    ]  # fmt: skip


def board_engines() -> list[Engine]:
    """The C export on emulated microcontrollers."""
    found = []
    for board in (boards.M3, boards.M4, boards.M7, boards.M55):
        run = partial(boards.run_board, board)
        found.append(Engine(f"{board.name}, emulated", run, tuple(ROUNDING), equal=True, most=BOARD_INPUTS))
    return found


class Verifier:
    """Compares engines over the inputs `x`, int8 (N, *input_shape), N >= 1, of a checked graph."""

    def __init__(self, graph: Graph, x: Int8) -> None:
        self._graph = graph
        self._logits = without_softmax(graph)
        self._x = x
        self._some = x[_spread(len(x), OP_INPUTS)]
        self._known: dict[tuple[str, str], Int8] = {}
        self._activations: dict[str, dict[str, Int8]] = {}

    def rules(self) -> list[Row]:
        """NumPy under each rule against NumPy under the graph's own."""
        own = self._graph.rounding
        expected = self._expected(self._logits, own)
        rows = []
        for rule in (own, *(rule for rule in ROUNDING_RULES if rule != own)):
            try:
                actual = self._expected(self._logits, rule)
                verdict = "reference" if rule == own else "counted"
                rows.append(_row(f"NumPy {rule}", own, "logits", expected, actual, verdict))
            except KwsError as error:
                rows.append(_unchecked(f"NumPy {rule}", own, "logits", error))
        return rows

    def rows(self, engine: Engine) -> list[Row]:
        """What the engine computes against NumPy: the logits, a softmax that must be equal too, and ops one by one."""
        comparisons = []
        for rule in engine.rules:
            comparisons.append((rule, "logits"))
            if engine.equal and self._logits is not self._graph:
                comparisons.append((rule, "softmax"))
        if engine.ops:
            comparisons.append((engine.rules[0], "ops"))
        return [self._checked(engine, rule, part) for rule, part in comparisons]

    def _checked(self, engine: Engine, rule: str, part: str) -> Row:
        try:
            return self._ops(engine, rule) if part == "ops" else self._whole(engine, rule, part)
        except KwsError as error:
            return _unchecked(engine.name, rule, part, error)
        except Exception as error:  # whatever others' runtimes raise
            note = str(error).strip().splitlines() or [type(error).__name__]
            return Row(engine.name, rule, part, 0, 0, 0, 0, None, "FAILED", note[0][:200])

    def _expected(self, graph: Graph, rule: str) -> Int8:
        """NumPy's outputs under a rule. ModelError where its sums could overflow."""
        key = (rule, graph.output)
        if key not in self._known:
            graph = graph.with_rounding(rule)
            graph.check()
            self._known[key] = reference.run(graph, self._x)
        return self._known[key]

    def _whole(self, engine: Engine, rule: str, part: str) -> Row:
        graph = self._logits if part == "logits" else self._graph
        some = _spread(len(self._x), engine.most or len(self._x))
        expected = self._expected(graph, rule)[some]
        actual = engine.run(graph.with_rounding(rule), self._x[some])
        verdict = "counted" if not engine.equal else "equal" if np.array_equal(expected, actual) else "DIFFERS"
        return _row(engine.name, rule, part, expected, actual, verdict)

    def _ops(self, engine: Engine, rule: str) -> Row:
        """Convolution, depthwise and fully connected, each from NumPy's inputs."""
        graph = self._graph.with_rounding(rule)
        if rule not in self._activations:
            graph.check()
            self._activations[rule] = reference.run_all(graph, self._some)
        known = self._activations[rule]
        values = different = largest = 0
        wrong = []
        for op in graph.ops:
            if not isinstance(op.attributes, _AFFINE) or (engine.ops == "equal" and not _in_groups_of_8(graph, op)):
                continue
            x, expected = known[op.inputs[0]], known[op.output]
            steps = np.abs(expected.astype(np.int32) - engine.run(alone(graph, op), x))
            bad = steps > 0 if engine.ops == "equal" else (steps > 0) & ~((steps == 1) & beside_tie(graph, op, x))
            values, different = values + steps.size, different + int((steps > 0).sum())
            largest = max(largest, int(steps.max()))
            if bad.any():
                wrong.append(f"{op.name}: {bad.sum():,}")
        if values == 0:
            return Row(engine.name, rule, "ops", 0, 0, 0, 0, None, "nothing", "")
        what = "values differ" if engine.ops == "equal" else "values differ that lie beside no float32 tie"
        verdict, note = ("DIFFERS", f"{what}: {', '.join(wrong)}") if wrong else ("equal", "")
        if different and not wrong:
            verdict, note = "ties", "each value that differs lies beside a tie, within float32's reach"
        return Row(engine.name, rule, "ops", len(self._some), values, different, largest, None, verdict, note)


_AFFINE = (Conv2d, DepthwiseConv2d, FullyConnected)


def random_inputs(graph: Graph, n: int = 98, seed: int = 0) -> Int8:
    """int8 (n + 2, *input_shape): the type's two ends throughout, then uniform values."""
    shape = graph.input_shape
    uniform = np.random.default_rng(seed).integers(-128, 128, (n, *shape), dtype=np.int8)
    return np.concatenate([np.full((1, *shape), end, np.int8) for end in (-128, 127)] + [uniform])


def without_softmax(graph: Graph) -> Graph:
    """The graph up to its logits: a softmax hides what differs."""
    last = graph.ops[-1]
    if last.kind != "softmax" or len(graph.ops) == 1:
        return graph
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name != last.output}
    return replace(graph, tensors=tensors, ops=graph.ops[:-1], output=last.inputs[0])


def beside_tie(graph: Graph, op: Op, x: Int8, *, float_sums: bool = False) -> NDArray[np.bool_]:
    """Which outputs of a convolution or fully connected op lie, before they are rounded, so near a tie that
    FLOAT32_ROUNDINGS roundings of the sum, and of a bias kept apart, could move them across.

    `float_sums`: of an engine that adds float32 products, so that each partial sum is rounded too.
    """
    attributes = cast(Any, op.attributes)
    requant: Requant = attributes.requant
    unrounded = replace(
        attributes, requant=_Sums(**{field.name: getattr(requant, field.name) for field in fields(requant)})
    )
    source, weight, bias = graph.inputs_of(op)
    assert weight.data is not None
    assert bias.data is not None
    acc = reference.run_op(graph, replace(op, attributes=unrounded), [x]).astype(np.float64)
    magnitude, roundings = np.abs(acc - bias.data) + np.abs(bias.data), FLOAT32_ROUNDINGS
    if float_sums:
        given = zip((x, weight.data, bias.data), (source, weight, bias), strict=True)
        distances = [np.abs(values.astype(np.int32) - tensor.zero_point) for values, tensor in given]
        centred = [replace(tensor, zero_point=0) for tensor in (source, weight, bias)]
        magnitude = unrounded.run(distances, centred, graph.tensors[op.output])
        roundings += weight.size // bias.size
    multiplier = np.ldexp(requant.multiplier.astype(np.float64), requant.shift - 31)
    exact = acc * multiplier
    reach = roundings * 2.0**-24 * magnitude * multiplier
    return np.abs(exact - np.floor(exact) - 0.5) <= reach


class _Sums(Requant):
    """Leaves the sums as they are."""

    def apply(self, acc: IntArray, dtype: type[np.integer[Any]] = np.int8) -> IntArray:
        return acc


def run_onnx(graph: Graph, x: Int8) -> Int8:
    """The graph's export in ONNX Runtime. MissingExtraError where that is not installed."""
    return _onnxruntime(onnx.export(graph, _names(graph), None), x)


def run_qdq(graph: Graph, x: Int8) -> Int8:
    """The graph's QDQ export, summed in integers as on Arm: by default x86 sums float32, whose error grows with the
    number of terms."""
    return _onnxruntime(onnx.export(graph, _names(graph), None, qdq=True), x, ("session.qdqisint8allowed", "1"))


def _onnxruntime(data: bytes, x: Int8, *config: tuple[str, str]) -> Int8:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime is not installed", hint="pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    for entry in config:
        options.add_session_config_entry(*entry)
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return cast(Int8, session.run(None, {session.get_inputs()[0].name: x})[0])


def _tflite(runtime: str) -> Run:
    def run(graph: Graph, x: Int8) -> Int8:
        outputs = run_tflite(runtime, tflite.export(graph, _names(graph), None), {graph.input: x})
        return outputs[graph.output]

    return run


def _native(level: str) -> Run:
    def run(graph: Graph, x: Int8) -> Int8:
        if not native.available():
            raise MissingExtraError("the native engine was not built", hint="install a C compiler and install again")
        return native.Engine(graph, level).run(x)

    return run


def _names(graph: Graph) -> list[str]:
    return [f"class_{i}" for i in range(graph.output_shape[-1])]


def alone(graph: Graph, op: Op) -> Graph:
    """A graph of one op of one activation."""
    tensors = {name: graph.tensors[name] for name in (*op.inputs, op.output)}
    return Graph(tensors, (op,), op.inputs[0], op.output, graph.rounding)


def _in_groups_of_8(graph: Graph, op: Op) -> bool:
    """Not so are depthwise channels left over, which LiteRT without delegates rounds by another rule."""
    return op.kind != "depthwise_conv2d" or graph.tensors[op.output].shape[-1] % 8 == 0


def _spread(n: int, most: int) -> NDArray[np.int64]:
    """Up to `most` of n indices, the first and the last among them."""
    return np.linspace(0, n - 1, min(most, n)).astype(np.int64)


def _row(engine: str, rule: str, part: str, expected: Int8, actual: Int8, verdict: str) -> Row:
    steps = np.abs(expected.astype(np.int32) - actual)
    a, b = (values.reshape(len(values), -1).argmax(axis=1) for values in (expected, actual))
    return Row(
        engine, rule, part, len(steps), steps.size, int((steps > 0).sum()), int(steps.max()), int((a != b).sum()),
        verdict,
    )  # fmt: skip


def _unchecked(engine: str, rule: str, part: str, error: KwsError) -> Row:
    verdict = "not installed" if isinstance(error, MissingExtraError) else "refused"
    return Row(engine, rule, part, 0, 0, 0, 0, None, verdict, str(error))
