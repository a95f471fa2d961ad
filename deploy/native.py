# SPDX-License-Identifier: Apache-2.0
"""The C runtime as an engine for Python: the bits of `deploy.reference`, some hundred times faster.

The C structures of `c/kws_nn.h` are built here, field by field, from a `Program`; the extension `deploy._native` gets
their addresses. Without the extension, `Engine` raises UsageError, and `kws` falls back to NumPy.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_int32, c_int64, c_void_p
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.graph import Graph
from deploy.listen import Heard, Listen
from deploy.program import Fields, Program, compile_graph
from deploy.reference import check_input
from deploy.streaming import Move, StreamPlan, compile_stream
from features import native_frontend
from kws.errors import UsageError

_MIN_CLIPS_PER_THREAD = 64  # starting a thread takes as long as a few clips
_ALIGNMENT = 64
_SAMPLES_AT_ONCE = 1 << 18  # of one call: bounds the events that it can give
FRAMES_AT_ONCE = 8  # the lanes of the front-end's AVX2 path


class _Extension(Protocol):
    """What `deploy._native` has to offer; addresses are integers."""

    def tables(self) -> tuple[dict[str, int], dict[str, int]]: ...
    def levels(self) -> list[str]: ...
    def fast_path(self, level: int, kernel: int, op: int, /) -> tuple[str, int, int, int] | None: ...
    def pack(self, level: int, kernel: int, op: int, packed: Any, /) -> None: ...
    def memory_size(self, network: int, /) -> int: ...
    def run(self, network: int, memory: Any, x: Any, y: Any, moves: Any, /) -> None: ...
    def listen_size(self, listen: int, /) -> int: ...
    def listen_init(self, listen: int, memory: Any, /) -> None: ...
    def listen_push(self, listen: int, memory: Any, samples: Any, events: Any, end: bool, /) -> int: ...


def _structure(name: str, *fields: tuple[str, Any]) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def _int32(*names: str) -> list[tuple[str, Any]]:
    return [(name, c_int32) for name in names]


_Requant = _structure(
    "kws_requant",
    ("multiplier", c_void_p), ("shift", c_void_p),
    *_int32("per_channel", "zero_point", "activation_min", "activation_max", "rounding"),
)  # fmt: skip
_Window = _structure(
    "kws_window",
    *_int32("in_h", "in_w", "in_c", "out_h", "out_w", "out_c"),
    *_int32("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_top", "pad_left"),
)
_Step = _structure("kws_step", ("kernel", c_void_p), ("op", c_void_p), *_int32("input", "input2", "output"))
_Network = _structure(
    "kws_network",
    ("steps", c_void_p),
    *_int32("n_steps", "input", "input_size", "output", "output_size", "arena_size", "column", "scratch_size"),
)
_Move = _structure("kws_move", *_int32("target", "source", "size"))
_Listen = _structure(
    "kws_listen",
    ("frontend", c_void_p),
    ("frames", c_void_p),
    *_int32("frames_at_once", "work_size"),
    ("network", c_void_p),
    ("moves", c_void_p),
    *_int32(
        "n_moves", "stride", "delay", "lag", "every", "n_frames", "silence", "smoothing", "refractory", "n_keywords"
    ),
    ("thresholds", c_void_p),
    ("releases", c_void_p),
    *_int32("after", "pause", "late", "shortest", "longest"),
)
_Event = _structure("kws_event", *_int32("keyword", "score"), ("first", c_int64), ("end", c_int64))
_EVENT = np.dtype(_Event)
_STRUCTURES = {
    structure.__name__: structure
    for structure in (
        _Requant, _Window, _Step, _Network, _Move, _Listen, _Event,
        _structure(
            "kws_affine",
            ("window", _Window), ("weight", c_void_p), ("bias", c_void_p),
            *_int32("input_zero_point", "weight_zero_point"), ("requant", _Requant), ("packed", c_void_p),
        ),
        _structure("kws_pool", ("window", _Window), *_int32("activation_min", "activation_max")),
        _structure(
            "kws_add_op",
            *_int32("size", "input_zero_point", "input2_zero_point", "multiplier", "shift", "multiplier2", "shift2"),
            ("requant", _Requant),
        ),
        _structure(
            "kws_mul_op",
            *_int32("rows", "row_size", "input_zero_point", "input2_zero_point"), ("requant", _Requant),
        ),
        _structure("kws_mean_op", *_int32("count", "channels", "input_zero_point"), ("requant", _Requant)),
        _structure(
            "kws_concatenation_op",
            *_int32("rows", "row_size", "output_row_size", "output_offset", "input_zero_point"),
            ("requant", _Requant),
        ),
        _structure(
            "kws_block",
            ("shape", c_int32 * 4), ("begin", c_int32 * 4), ("size", c_int32 * 4), ("zero_point", c_int32),
        ),
        _structure("kws_lookup_op", ("size", c_int32), ("table", c_void_p)),
        _structure("kws_softmax_op", *_int32("rows", "classes", "multiplier", "left_shift")),
    )
}  # fmt: skip


def _load() -> tuple[_Extension, dict[str, int]] | None:
    """The extension and its kernels, None where it was not built or was built from other sources."""
    try:
        extension: _Extension = importlib.import_module("deploy._native")
    except ImportError:
        return None
    kernels, sizes = extension.tables()
    if sizes != {name: ctypes.sizeof(structure) for name, structure in _STRUCTURES.items()}:
        return None
    return extension, kernels


def available() -> bool:
    """Whether the extension was built."""
    return _load() is not None


def levels() -> list[str]:
    """The instruction sets of this host that have fast paths, the portable code first; empty without the extension."""
    loaded = _load()
    return loaded[0].levels() if loaded else []


class _Compiled:
    """A program in C structures; `paths` as of `Engine`."""

    def __init__(self, program: Program, level: str | None) -> None:
        loaded = _load()
        if loaded is None:
            raise UsageError("the native engine was not built", hint="install a C compiler and install again")
        self.extension, kernels = loaded
        known = self.extension.levels()
        if level is not None and level not in known:
            raise UsageError(f"this host has no {level!r}", hint="one of " + ", ".join(known))
        self._level = len(known) - 1 if level is None else known.index(level)
        self.paths: list[str] = []
        scratch_size = 0
        self._keep: list[Any] = []  # what C points to
        steps = (_Step * len(program.steps))()
        for target, step in zip(steps, program.steps, strict=True):
            op = self.fill(_STRUCTURES[step.struct](), step.fields)
            self._keep.append(op)
            name, kernel, scratch = self._choose(step.kernel, kernels[step.kernel], ctypes.addressof(op))
            self.paths.append(name)
            scratch_size = max(scratch_size, scratch)
            self.fill(
                target,
                {
                    "kernel": kernel,
                    "op": ctypes.addressof(op),
                    "input": step.inputs[0],
                    "input2": step.inputs[-1],
                    "output": step.output,
                },
            )
        network = {
            "steps": ctypes.addressof(steps), "n_steps": len(steps), "scratch_size": scratch_size,
            "input": program.input, "input_size": program.input_size,
            "output": program.output, "output_size": program.output_size,
            "arena_size": -(-program.arena_size // _ALIGNMENT) * _ALIGNMENT, "column": program.column,
        }  # fmt: skip
        structure = self.fill(_Network(), network)
        self._keep += [steps, structure]
        self.network = ctypes.addressof(structure)
        self._memory_size = self.extension.memory_size(self.network)

    def memory(self) -> NDArray[np.int8]:
        """Memory that the program computes in."""
        return _aligned(self._memory_size)

    def call(self, memory: NDArray[np.int8], x: Any, y: Any, moves: Any = b"") -> None:
        """As many inferences as `x` holds."""
        self.extension.run(self.network, memory, x, y, moves)

    def _choose(self, name: str, kernel: int, op: int) -> tuple[str, int, int]:
        """Name, kernel and scratch bytes of the fastest path; its constants are packed."""
        path = self.extension.fast_path(self._level, kernel, op)
        if path is None:
            return f"{name.removeprefix('kws_')} portable", kernel, 0
        packed = _aligned(path[2])
        self.extension.pack(self._level, kernel, op, packed)
        self._keep.append(packed)
        return path[0], path[1], path[3]

    def fill(self, structure: ctypes.Structure, fields: Fields) -> ctypes.Structure:
        """Set every field; arrays are kept and passed by address."""
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                array = np.ascontiguousarray(value)
                self._keep.append(array)
                setattr(structure, name, array.ctypes.data)
            elif isinstance(value, tuple):
                setattr(structure, name, (c_int32 * len(value))(*value))
            elif isinstance(value, int):
                setattr(structure, name, value)
            else:
                self.fill(getattr(structure, name), value)
        return structure


class Engine:
    """A checked graph, ready to run. Threads may share it: each run has memory of its own.

    `paths` names what runs each step: an instruction set's kernel, or the portable one.
    """

    def __init__(self, graph: Graph, level: str | None = None) -> None:
        """`level`, one of `levels()`, is the best instruction set to use, by default the host's.

        UsageError for another, and where the extension is missing or does not compute the graph's rounding rule.
        """
        self._graph = graph
        self._compiled = _Compiled(compile_graph(graph), level)
        self.paths = self._compiled.paths

    def run(self, x: NDArray[np.int8], *, threads: int | None = None) -> NDArray[np.int8]:
        """The outputs int8 (N, *output_shape) for inputs int8 (N, *input_shape); N may be 0. ModelError otherwise.

        Large batches use `threads` threads, all cores unless given.
        """
        check_input(self._graph, x)
        x = np.ascontiguousarray(x)
        y = np.empty((len(x), *self._graph.output_shape), np.int8)
        threads = min(threads or cores(), max(1, len(x) // _MIN_CLIPS_PER_THREAD))
        if threads == 1:
            self._run(x, y)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(self._run, np.array_split(x, threads), np.array_split(y, threads)))
        return y

    def prepared(self, x: NDArray[np.int8], y: NDArray[np.int8]) -> Callable[[], None]:
        """A call that computes `y` from `x`, contiguous arrays as `run` has them, in one thread and the same memory."""
        check_input(self._graph, x)
        memory = self._compiled.memory()
        return lambda: self._compiled.call(memory, x, y)

    def _run(self, x: NDArray[np.int8], y: NDArray[np.int8]) -> None:
        self.prepared(x, y)()


class Stream:
    """A plan in C: what `deploy.streaming.ReferenceStream` computes. It holds the state of one stream."""

    def __init__(self, plan: StreamPlan, level: str | None = None) -> None:
        """`level` and errors as of `Engine`."""
        program, moves = compile_stream(plan)
        self.plan = plan
        self._compiled = _Compiled(program, level)
        self._memory = self._compiled.memory()
        self._memory[:] = 0
        self._moves = _as_array(moves)
        self._output_size = program.output_size // plan.windows

    def run(self, frames: NDArray[np.int8]) -> NDArray[np.int8]:
        """Whole steps: int8 (n * plan.frames, F) -> the outputs (n * plan.windows, size), the first ones included."""
        outputs = np.empty((len(frames) // self.plan.stride, self._output_size), np.int8)
        self._compiled.call(self._memory, np.ascontiguousarray(frames), outputs, self._moves)
        return outputs


class Listener:
    """A `Listen` in C: what `kws.stream` does in NumPy. Its constants are shared by any number of streams."""

    def __init__(self, listen: Listen, level: str | None = None) -> None:
        """`level` and errors as of `Engine`, for network and front-end; UsageError where the latter was not built."""
        self.listen = listen
        program, moves = listen.program()
        compiled = _Compiled(program, level)
        frontend = native_frontend.frames(
            listen.frontend, listen.graph.input_params, portable=level == native_frontend.PORTABLE
        )
        moved = _as_array(moves)
        constants = {
            **listen.constants(),
            "frontend": frontend.frontend, "frames": frontend.function, "frames_at_once": FRAMES_AT_ONCE,
            "work_size": -(-frontend.work_size // _ALIGNMENT) * _ALIGNMENT,
            "network": compiled.network, "moves": moved, "n_moves": len(moves),
        }  # fmt: skip
        structure = compiled.fill(_Listen(), constants)
        self.extension, self.address = compiled.extension, ctypes.addressof(structure)
        self.memory_size = self.extension.listen_size(self.address)
        """Bytes of a stream's memory on this host."""
        work, network = constants["work_size"], self.extension.memory_size(compiled.network)
        self.computing_size = work + network if moves else max(work, network)
        """Those of them that front-end and network compute in."""
        step = listen.hop * listen.frontend.hop_length
        most = 2 + (_SAMPLES_AT_ONCE + listen.frontend.clip_samples) // step + listen.silence // listen.hop
        self.most_events = most
        self._keep = compiled, frontend, structure


class Listening:
    """One stream through a `Listener`, from its beginning."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._memory = _aligned(listener.memory_size)
        self._events = np.empty(listener.most_events, _EVENT)
        listener.extension.listen_init(listener.address, self._memory)

    def push(self, samples: NDArray[np.int16]) -> list[Heard]:
        """What the next samples (n,) complete; n may be 0."""
        if len(samples) <= _SAMPLES_AT_ONCE:
            return self._push(np.ascontiguousarray(samples), end=False)
        heard = []
        for start in range(0, len(samples), _SAMPLES_AT_ONCE):
            heard += self._push(np.ascontiguousarray(samples[start : start + _SAMPLES_AT_ONCE]), end=False)
        return heard

    def finish(self) -> list[Heard]:
        """What silence behind the last sample completes. Nothing may be pushed after it."""
        return self._push(b"", end=True)

    def _push(self, samples: Any, *, end: bool) -> list[Heard]:
        listener = self._listener
        count = listener.extension.listen_push(listener.address, self._memory, samples, self._events, end)
        return [Heard(*event) for event in self._events[:count].tolist()] if count else []


def _as_array(moves: Sequence[Move]) -> NDArray[np.int32]:
    """As `kws_move` lies in memory."""
    return np.array([(m.target, m.source, m.size) for m in moves], np.int32)


def _aligned(size: int) -> NDArray[np.int8]:
    """That many bytes from a multiple of _ALIGNMENT on."""
    memory = np.empty(size + _ALIGNMENT, np.int8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
