# SPDX-License-Identifier: Apache-2.0
"""Where every activation lies in one block of memory, and an independent proof that no two that live at once overlap.

An activation lives from the op that makes it (the graph's input from before the first) to the last op that reads it
(the graph's output to the end). An op whose kernel reads each value before it writes that place may put its output on
an input that dies there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.graph import Graph, Op
from kws.errors import ModelError

ALIGNMENT = 16  # bytes, that of KWS_ALIGNMENT in c/kws_nn.h

# Kernels that may write over an input of at least the output's size; deploy/c says so beside each.
_IN_PLACE = ("add", "logistic", "mul", "reshape", "slice", "softmax")


@dataclass(frozen=True, slots=True)
class Arena:
    """Offsets of the activations by name, multiples of ALIGNMENT, and the bytes that they take together."""

    offsets: Mapping[str, int]
    size: int


@dataclass(frozen=True, slots=True)
class ArenaReport:
    """Bytes of the arena, and the largest sum of the (aligned) activations alive at one op, no two of them shared."""

    size: int
    largest_sum: int


@dataclass(slots=True)
class _Block:
    """Activations that share one place, one after another."""

    names: list[str]
    first: int
    last: int
    size: int
    offset: int = -1


def plan_arena(graph: Graph) -> Arena:
    """Offsets for a checked graph: blocks are placed one by one, each into the smallest gap that it fits.

    Several orders are tried, the smallest arena is taken.
    """
    best: Arena | None = None
    orders: tuple[Callable[[_Block], tuple[int, ...]], ...] = (
        lambda b: (-b.size, b.first),
        lambda b: (b.first, -b.size),
        lambda b: (b.first - b.last, -b.size),
        lambda b: (-b.last, -b.size),
    )
    for order in orders:
        blocks = _blocks(graph)
        placed: list[_Block] = []
        for block in sorted(blocks, key=order):
            block.offset = _best_fit(block, placed)
            placed.append(block)
        arena = Arena(
            {name: block.offset for block in blocks for name in block.names},
            max(block.offset + block.size for block in blocks),
        )
        if best is None or arena.size < best.size:
            best = arena
    assert best is not None
    return best


def check_arena(graph: Graph, arena: Arena) -> ArenaReport:
    """Prove the plan without the planner: walk the ops and see what each would destroy. ModelError names the tensors.

    Every byte of the arena remembers whose it is; an op must find each input whole, and may write over nothing that is
    read later.
    """
    activations = {name: tensor.size for name, tensor in graph.tensors.items() if tensor.data is None}
    for name, size in activations.items():
        offset = arena.offsets.get(name, -1)
        if offset < 0 or offset % ALIGNMENT or offset + size > arena.size:
            raise ModelError(f"'{name}' of {size} bytes at {offset} does not lie in {arena.size}", where="arena")
    owner = np.full(arena.size, -1, np.int32)  # the number of the activation whose byte it is
    number = {name: index for index, name in enumerate(activations)}

    def place(name: str) -> NDArray[np.int32]:
        return owner[arena.offsets[name] : arena.offsets[name] + activations[name]]

    largest_sum = 0
    alive = {graph.input}
    place(graph.input)[:] = number[graph.input]
    for index, op in enumerate(graph.ops):
        reads = {name for name in op.inputs if name in activations}
        for name in reads:
            if (place(name) != number[name]).any():
                raise ModelError(f"'{name}' is overwritten before op '{op.name}' reads it", where="arena")
        for name in reads:
            in_place = op.kind in _IN_PLACE and activations[name] >= activations[op.output]
            if not in_place and _overlap(arena, activations, name, op.output):
                raise ModelError(f"op '{op.name}' writes over its input '{name}'", where="arena")
            if _overlap(arena, activations, name, op.output) and arena.offsets[name] != arena.offsets[op.output]:
                raise ModelError(f"op '{op.name}' writes into the middle of its input '{name}'", where="arena")
        largest_sum = max(largest_sum, sum(aligned(activations[name]) for name in alive | {op.output}))
        place(op.output)[:] = number[op.output]
        later = {name for other in graph.ops[index + 1 :] for name in other.inputs} | {graph.output}
        alive = {name for name in alive | {op.output} if name in later}
    if (place(graph.output) != number[graph.output]).any():
        raise ModelError(f"the output '{graph.output}' is overwritten", where="arena")
    return ArenaReport(arena.size, largest_sum)


def aligned(size: int) -> int:
    """`size` up to a multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _blocks(graph: Graph) -> list[_Block]:
    """One block an activation, or one for several where ops work in place. Time -1 is before the first op."""
    end = len(graph.ops)
    last = {graph.input: -1}
    for index, op in enumerate(graph.ops):
        last[op.output] = index
        for name in op.inputs:
            if graph.tensors[name].data is None:
                last[name] = index
    last[graph.output] = end
    of = {graph.input: _Block([graph.input], -1, last[graph.input], aligned(graph.tensors[graph.input].size))}
    for index, op in enumerate(graph.ops):
        source = _in_place_input(graph, op, index, last)
        if source is None:
            of[op.output] = _Block([op.output], index, last[op.output], aligned(graph.tensors[op.output].size))
        else:
            block = of[op.output] = of[source]
            block.names.append(op.output)
            block.last = last[op.output]
    return list({id(block): block for block in of.values()}.values())


def _in_place_input(graph: Graph, op: Op, index: int, last: Mapping[str, int]) -> str | None:
    """An input that dies at `op` and is large enough to hold its output, where the kernel allows it."""
    if op.kind not in _IN_PLACE:
        return None
    size = graph.tensors[op.output].size
    for name in op.inputs:
        if last[name] == index and graph.tensors[name].size >= size and op.inputs.count(name) == 1:
            return name
    return None


def _best_fit(block: _Block, placed: list[_Block]) -> int:
    """The start of the smallest gap among those alive at the same time, else the end of the last of them."""
    rivals = sorted((b for b in placed if b.first <= block.last and block.first <= b.last), key=lambda b: b.offset)
    position, best, best_gap = 0, -1, -1
    for rival in rivals:
        gap = rival.offset - position
        if gap >= block.size and (best < 0 or gap < best_gap):
            best, best_gap = position, gap
        position = max(position, rival.offset + rival.size)
    return position if best < 0 else best


def _overlap(arena: Arena, sizes: Mapping[str, int], a: str, b: str) -> bool:
    return arena.offsets[a] < arena.offsets[b] + sizes[b] and arena.offsets[b] < arena.offsets[a] + sizes[a]
