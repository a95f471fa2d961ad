# SPDX-License-Identifier: Apache-2.0
"""A network as the list of its module calls: what `training.qat` and `training.convert` read its structure from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn
from torch.ao.nn.intrinsic.modules.fused import _FusedModule
from torch.nn.modules.conv import _ConvNd

from kws.errors import ModelError
from training.networks.layers import Add

_QUANTIZERS = ("activation_post_process", "weight_fake_quant")
_WHOLE = (_ConvNd, _FusedModule, Add)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one module in the forward pass. `name` is its qualified name; `inputs` are names of earlier calls.

    The network's input has the name "".
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]


def trace(model: nn.Module) -> list[Call]:
    """The calls of `model`'s forward pass, in order. Nothing is computed and no observer sees a value.

    Identity and Dropout, which change nothing when a trained network runs, are left out.

    Raises ModelError for an operation that is not a module, for a module called twice, and for an output that is not
    the last call's.
    """
    calls: list[Call] = []
    names: dict[fx.Node, str] = {}
    modules = dict(model.named_modules())
    for node in _Tracer().trace(model).nodes:
        if node.op == "placeholder":
            names[node] = ""
        elif node.op == "call_module":
            name = str(node.target)
            if isinstance(modules[name], nn.Identity | nn.Dropout):
                names[node] = names[node.all_input_nodes[0]]
                continue
            if any(call.name == name for call in calls):
                raise ModelError("is called twice", where=f"module '{name}'", hint="write one module for each call")
            names[node] = name
            calls.append(Call(name, modules[name], tuple(names[argument] for argument in node.all_input_nodes)))
        elif node.op == "output":
            if [names[argument] for argument in node.all_input_nodes] != [call.name for call in calls[-1:]]:
                raise ModelError("the output is not what the last module returns", where=type(model).__name__)
        else:
            where = type(model).__name__
            raise ModelError(f"operation '{node.name}' is not a module", where=where, hint="wrap it in one")
    return calls


def consumers(calls: list[Call], name: str) -> list[Call]:
    """The calls that read what the call `name` returns."""
    return [call for call in calls if name in call.inputs]


class _Tracer(fx.Tracer):
    """Goes into the blocks of a network and stops at modules that compute."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        children = [name for name, _ in m.named_children() if name not in _QUANTIZERS]
        return not children or isinstance(m, _WHOLE)
