# SPDX-License-Identifier: Apache-2.0
"""ExecuTorch's Cortex-M backend: PT2E with its quantizer, its edge configuration and passes, as its tests have it."""

from __future__ import annotations

import copy
import logging
import time
from collections import Counter
from typing import Any

import numpy as np
import torch
from common import FOLDER, N_CALLS, attempt, calibration, eager_qat, inputs, output_params, plain, save_reference, train
from executorch.backends.cortex_m.edge_compile_config import cortex_m_edge_compile_config
from executorch.backends.cortex_m.passes.cortex_m_pass_manager import CortexMPassManager
from executorch.backends.cortex_m.quantizer.quantizer import CortexMQuantizer
from executorch.exir import to_edge
from torchao.quantization.pt2e import move_exported_model_to_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e

LAST = torch.channels_last
CONTIGUOUS = torch.contiguous_format
X = inputs()[:1]


def lowered(module: Any, layout: torch.memory_format, strict: bool = True) -> Any:
    """The edge program after the backend's passes."""
    exported = torch.export.export(module, (X.to(memory_format=layout),), strict=strict)
    edge = to_edge(exported, compile_config=cortex_m_edge_compile_config())
    edge._edge_programs["forward"] = CortexMPassManager(edge.exported_program()).transform()
    return edge


def float_ops(edge: Any) -> str:
    """The operators on reals that are left, other than those that only move values."""
    moves = ("alloc", "view", "cortex_m", "getitem", "dim_order", "quantized_decomposed")
    nodes = [node for node in edge.exported_program().graph_module.graph.nodes if node.op == "call_function"]
    names = [str(node.target).removeprefix("<EdgeOpOverload: aten.").split(".")[0].split(">")[0] for node in nodes]
    left = Counter(name for name in names if not any(word in name for word in moves))
    return ", ".join(f"{count} {name}" for name, count in left.items())


def said(edge: Any) -> str:
    left = float_ops(edge)
    return f"no, without an error: {left} on float" if left else "yes"


def quantized(layout: torch.memory_format) -> Any:
    network = plain().to(memory_format=layout)
    exported = torch.export.export(network, (X.to(memory_format=layout),), strict=True)
    prepared = prepare_pt2e(exported.module(), CortexMQuantizer())
    with torch.no_grad():
        for row in calibration():
            prepared(row[None].to(memory_format=layout))
    return convert_pt2e(prepared)


def ptq() -> str:
    """With channels last; and the logits of the program in the backend's Python operators, its reference, its file."""
    module = quantized(LAST)
    save_reference(module, output_params(module))
    edge = lowered(module, LAST)
    program = edge.exported_program().module()
    with torch.no_grad():
        logits = [program(x[None].to(memory_format=LAST)).numpy() for x in inputs()]
    np.save(FOLDER / "logits.npy", np.concatenate(logits))
    (FOLDER / "int8.pte").write_bytes(edge.to_executorch().buffer)
    return said(edge)


def qat() -> str:
    x = inputs()[:32].to(memory_format=LAST)
    network = copy.deepcopy(plain()).to(memory_format=LAST).train()
    exported = torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=True)
    prepared = prepare_qat_pt2e(exported.module(), CortexMQuantizer())
    train(prepared)
    return said(lowered(convert_pt2e(move_exported_model_to_eval(prepared)), LAST))


def run() -> str:
    """The file in the runtime that the package brings."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(FOLDER / "int8.pte").load_method("forward")
    assert method is not None
    times = []
    for _ in range(N_CALLS):
        start = time.perf_counter()
        method.execute([X.to(memory_format=LAST)])
        times.append(time.perf_counter() - start)
    return f"{1e6 * np.median(times):.1f} us in its runtime"


logging.disable(logging.WARNING)
result: dict[str, Any] = {}
attempt(result, "ptq", ptq)
attempt(result, "contiguous", lambda: said(lowered(quantized(CONTIGUOUS), CONTIGUOUS)))
attempt(result, "qat", qat)
attempt(result, "eager", lambda: said(lowered(eager_qat(plain()), LAST, strict=False)))
attempt(result, "run", run)
print(result)
