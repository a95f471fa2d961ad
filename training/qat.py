# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-calls
"""Quantization-aware training and post-training quantization in PyTorch's eager mode: what the integers will compute.

The only module that imports `torch.ao.quantization`. Two ways lead to one kind of model, the *fake-quantized* one,
whose float32 tensors lie on the grids of int8 (S, Z):

* QAT: train the float network; `prepare_qat`; train on; `freeze`; train a little more; `avoid_ties`.
* PTQ: train the float network; `prepare_ptq`; `calibrate`.

Both are saved and loaded with `save` and `load`, and made a graph of with `training.convert.convert`. In eval mode a
fake-quantized model computes what the integers compute: int8 activations and weights, biases on the int32 grid
S_in * S_w, ReLU6 as its op's output quantizer, and the integer average pool. See docs/qat.md.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.ao.nn.intrinsic import ConvBn2d
from torch.ao.quantization import (
    DeQuantStub,
    FakeQuantize,
    FakeQuantizeBase,
    FixedQParamsFakeQuantize,
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    QConfig,
    QuantStub,
    fuse_modules,
    fuse_modules_qat,
)
from torch.ao.quantization import prepare_qat as torch_prepare_qat

from kws.errors import ModelError, UsageError
from training import checkpoint
from training.fake_quantized import (
    FakeQuantizedLayer,
    QatConv2d,
    QatConvBn2d,
    QatLinear,
    bias_step,
    on_grid,
    round_to_grid,
)
from training.networks.layers import Add, AveragePool, ConvBn
from training.ties import tie_free_scale
from training.trace import Call, consumers, trace

__all__ = ["DeQuantStub", "QuantScheme", "QuantStub"]

CALIBRATIONS = ("minmax", "percentile", "mse")
SCALE_FLOOR = 2.0**-16
"""No scale is smaller, so that the bias of a dead channel still fits its int32 grid."""


@dataclass(frozen=True, slots=True)
class QuantScheme:
    """How reals become integers. Activations are int8 with one (S, Z) a tensor, all 8 bits used.

    `scheme` "affine": any float32 scale; ReLU6 is S = 6/255, Z = -128. "pow2": every scale, of activations and of
    weights, is a power of two; ReLU6 is S = 2^-5, Z = -128 and the clamp [Z, Z + 192].
    `weights` "per-channel": int8 in [-127, 127], Z = 0, a scale an output channel. "per-tensor": affine int8 in
    [-128, 127], one scale and one zero point a layer. Raises UsageError for another name.
    """

    scheme: str = "affine"
    weights: str = "per-channel"

    def __post_init__(self) -> None:
        _one_of("scheme", self.scheme, ("affine", "pow2"))
        _one_of("weights", self.weights, ("per-channel", "per-tensor"))

    @property
    def power_of_two(self) -> bool:
        return self.scheme == "pow2"

    @property
    def relu6_scale(self) -> float:
        """S of every tensor that leaves a ReLU6, where Z is -128: float64, which the quantizer rounds to float32."""
        return 2.0**-5 if self.power_of_two else 6 / 255


def fuse_conv_bn(model: nn.Module) -> None:
    """Fuses convolution and batch norm of every ConvBn of `model` in place.

    In train mode the pair becomes one module that still learns its batch norm (QAT); in eval mode the batch norm is
    folded into the convolution's weight and bias, in float (PTQ).
    """
    fuse = fuse_modules_qat if model.training else fuse_modules
    for module in model.modules():
        if isinstance(module, ConvBn):
            fuse(module, ["conv", "bn"], inplace=True)


def qconfig(scheme: QuantScheme, observer: str = "moving-average") -> QConfig:
    """The fake quantizers of one layer: of its output (int8, all 256 values) and of its weight.

    `observer` says how the output's range is found: "moving-average" of the extremes (QAT), or as for `prepare_ptq`.
    """
    return QConfig(activation=_activation(scheme, observer), weight=_weight(scheme))


def prepare_qat(model: nn.Module, scheme: QuantScheme) -> nn.Module:
    """A fake-quantized copy of a trained float network, in train mode, its observers on (moving averages of each
    batch's extremes; of the input's, without the outermost 0.05 % at either end).

    Its parameters are new objects: make the optimizer after this call.
    """
    model = copy.deepcopy(model).train()
    cast(Any, model).fuse_model()
    return _prepare(model, scheme, "moving-average")


def prepare_ptq(model: nn.Module, scheme: QuantScheme, calibration: str = "minmax") -> nn.Module:
    """A fake-quantized copy of a trained float network, in eval mode, for `calibrate` to fix its activation ranges.

    `calibration`: "minmax"; "percentile", which leaves 0.01 % of the values out at either end; or "mse", the range with
    the least squared error (torch's HistogramObserver). Weights take their own extremes. Raises UsageError.
    """
    _one_of("calibration", calibration, CALIBRATIONS)
    model = copy.deepcopy(model).eval()
    cast(Any, model).fuse_model()
    return _prepare(model.train(), scheme, calibration).eval()


def calibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Fixes the ranges of a model from `prepare_ptq` by what its float network computes over `batches` (B, 1, T, F)."""
    quantizers = [module for module in model.modules() if isinstance(module, FakeQuantizeBase)]
    hooks = [quantizer.register_forward_pre_hook(_observe) for quantizer in quantizers]
    for quantizer in quantizers:
        quantizer.disable_fake_quant()
        quantizer.disable_observer()
    model.eval()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for quantizer, hook in zip(quantizers, hooks, strict=True):
        hook.remove()
        scale, zero_point = quantizer.calculate_qparams()
        cast(Any, quantizer).scale = scale
        cast(Any, quantizer).zero_point = zero_point.int()
        quantizer.enable_fake_quant()
    avoid_ties(model)


def freeze(model: nn.Module) -> None:
    """Stops the observers and the batch norms' statistics: from here on training sees the (S, Z) of the conversion.

    Biases, which depend on the statistics, are snapped to their int32 grid from here on in train mode too.
    """
    for module in model.modules():
        if isinstance(module, FakeQuantizeBase):
            module.disable_observer()
        elif isinstance(module, QatConvBn2d):
            module.freeze_bn_stats()


def avoid_ties(model: nn.Module) -> None:
    """Chooses the last bits of every weight scale so that few accumulators come near a tie: see `training.ties`.

    For the biases as they are, so call it once, after the last step of training. Powers of two have no last bits.
    """
    if cast(Any, model).quant_scheme.power_of_two:
        return
    calls = trace(model)
    for call in calls:
        if isinstance(call.module, FakeQuantizedLayer):
            layer, output = cast(Any, call.module), cast(Any, op_quantizer(call, calls))
            with torch.no_grad():
                bias = torch.round(layer.quantized()[1].double() / bias_step(layer)).long().cpu().numpy()
            ratio = float(layer.input_quantizer[0].scale) / float(output.scale)
            scales = layer.weight_fake_quant.scale
            shares = bias[:, None] if len(scales) > 1 else bias[None]
            chosen = [tie_free_scale(float(scale), ratio, share) for scale, share in zip(scales, shares, strict=True)]
            scales.copy_(torch.tensor(chosen))


def save(path: Path, model: nn.Module, *, network: str, input_shape: tuple[int, int], n_labels: int) -> None:
    """Writes a frozen fake-quantized network of the registry, with what `load` needs to rebuild it."""
    meta = {
        "network": network,
        "input_shape": list(input_shape),
        "n_labels": n_labels,
        "scheme": asdict(cast(Any, model).quant_scheme),
        "ptq": not any(isinstance(module, QatConvBn2d) for module in model.modules()),
    }
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(_OBSERVED)}
    checkpoint.write(path, {"meta": meta, "state": state})


def load(path: Path) -> nn.Module:
    """The network that `save` wrote, frozen and in eval mode. Nothing in the file is executed. Raises ModelError."""
    from training.networks.registry import build  # the networks import this module's stubs

    try:
        saved = checkpoint.read(path)
        meta = saved["meta"]
        model = build(meta["network"], tuple(meta["input_shape"]), meta["n_labels"])
        prepare = prepare_ptq if meta["ptq"] else prepare_qat
        model = prepare(model, QuantScheme(**meta["scheme"]))
        keys = model.load_state_dict(saved["state"], strict=False)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=path) from None
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        raise ModelError("is not a fake-quantized network", where=path) from None
    if keys.unexpected_keys or not all(name.endswith(_OBSERVED) for name in keys.missing_keys):
        raise ModelError(f"does not fit network {meta['network']}", where=path)
    freeze(model)
    return model.eval()


def quantizer_of(module: nn.Module) -> FakeQuantizeBase | None:
    """The fake quantizer that `module` sends its output through, if it has one of its own."""
    holder = module.functional if isinstance(module, Add) else module
    quantizer = getattr(holder, "activation_post_process", None)
    return quantizer if isinstance(quantizer, FakeQuantizeBase) else None


def op_quantizer(call: Call, calls: list[Call]) -> FakeQuantizeBase:
    """The fake quantizer of the op that `call` becomes: its module's, or that of the ReLU6 that reads it.

    Raises ModelError where there is none, and where a ReLU6 shares what it reads with another module.
    """
    readers = [reader.module for reader in consumers(calls, call.name)]
    own = quantizer_of(call.module)
    quantizer = own or next(filter(None, map(quantizer_of, readers)), None)
    if quantizer is None:
        raise ModelError("its output is not quantized", where=f"module '{call.name}'")
    if own and any(isinstance(reader, nn.ReLU6) for reader in readers):
        raise ModelError("feeds a ReLU6 and another module", where=f"module '{call.name}'")
    return quantizer


class _FakeQuantize(FakeQuantize):
    """torch's FakeQuantize that observes in train mode only, and whose scale can be rounded up to a power of two."""

    def __init__(self, *, power_of_two: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.power_of_two = power_of_two

    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
        scale, zero_point = super().calculate_qparams()
        if not self.power_of_two:
            return scale, zero_point
        mantissa, exponent = torch.frexp(scale)
        power = torch.ldexp(torch.ones_like(scale), exponent - (mantissa == 0.5).int())
        if self.qscheme == torch.per_tensor_affine:
            low = torch.round((zero_point - self.quant_min) * scale / power)
            zero_point = torch.clamp(self.quant_min + low, self.quant_min, self.quant_max).to(zero_point.dtype)
        return power, zero_point

    def forward(self, X: Tensor) -> Tensor:
        if self.training or not self.observer_enabled:
            return cast(Tensor, super().forward(X))
        self.disable_observer()
        try:
            return cast(Tensor, super().forward(X))
        finally:
            self.enable_observer()


class _InputFakeQuantize(_FakeQuantize):
    """In eval mode features enter the integers as `kws.arithmetic.quant.quantize` has it: rounded after Z is added."""

    def forward(self, X: Tensor) -> Tensor:
        if self.training or not self.fake_quant_enabled:
            return super().forward(X)
        total = (X.double() * torch.reciprocal(self.scale).double() + self.zero_point).float()
        return on_grid(self, torch.round(total))


class _OutputFakeQuantize(_FakeQuantize):
    """In eval mode an op's output is rounded from float64, not from its float32 product with float32(1 / S)."""

    def forward(self, X: Tensor) -> Tensor:
        return super().forward(X) if self.training or not self.fake_quant_enabled else round_to_grid(self, X)


class _FixedFakeQuantize(FixedQParamsFakeQuantize):
    """The fake quantizer of a known (S, Z), in eval mode as `_OutputFakeQuantize`."""

    def forward(self, X: Tensor) -> Tensor:
        exact = not self.training and self.fake_quant_enabled
        return round_to_grid(self, X) if exact else cast(Tensor, super().forward(X))


class _PercentileObserver(HistogramObserver):
    """The range that leaves 0.01 % of the values out at either end."""

    LEFT_OUT = 1e-4

    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
        share = torch.cumsum(self.histogram, 0) / self.histogram.sum()
        low = int(torch.searchsorted(share, self.LEFT_OUT, right=True))
        high = int(torch.searchsorted(share, 1 - self.LEFT_OUT))
        width = (self.max_val - self.min_val) / self.bins
        return self._calculate_qparams(self.min_val + low * width, self.min_val + (high + 1) * width)


class _InputObserver(MovingAverageMinMaxObserver):
    """The range of features, of which 0.05 % at either end are left out in each batch: the rarest loud frames would
    cost all others resolution."""

    LEFT_OUT = 5e-4

    def forward(self, x_orig: Tensor) -> Tensor:
        x = x_orig.detach().flatten()
        left_out = int(self.LEFT_OUT * len(x))
        ends = [torch.kthvalue(x, 1 + left_out).values, torch.kthvalue(x, len(x) - left_out).values]
        super().forward(torch.stack(ends))
        return x_orig


_QAT_MODULES: dict[type[nn.Module], type[nn.Module]] = {
    ConvBn2d: QatConvBn2d,
    nn.Conv2d: QatConv2d,
    nn.Linear: QatLinear,
}
_OBSERVERS: dict[str, Any] = {
    "moving-average": MovingAverageMinMaxObserver,
    "input": _InputObserver,
    "minmax": MinMaxObserver,
    "percentile": _PercentileObserver,
    "mse": HistogramObserver,
}
_OBSERVED = (".min_val", ".max_val", ".histogram")


def _prepare(model: nn.Module, scheme: QuantScheme, observer: str) -> nn.Module:
    calls = trace(model)
    for call in calls:
        _set_qconfig(call, consumers(calls, call.name), scheme, observer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # known: see docs/design.md, Dependencies
        torch_prepare_qat(model, mapping=_QAT_MODULES, inplace=True)
    cast(Any, model).quant_scheme = scheme
    _link_inputs(model)
    return model


def _set_qconfig(call: Call, readers: list[Call], scheme: QuantScheme, observer: str) -> None:
    """Gives the module of `call` its fake quantizers. What only a ReLU6 reads gets none: the ReLU6's is the op's."""
    module = call.module
    config = qconfig(scheme, observer)
    if readers and all(isinstance(reader.module, nn.ReLU6) for reader in readers):
        config = config._replace(activation=nn.Identity)
    if isinstance(module, nn.ReLU6):
        cast(Any, module).qconfig = config._replace(activation=_relu6(scheme))
    elif isinstance(module, QuantStub):
        of_input = "input" if observer == "moving-average" else observer
        cast(Any, module).qconfig = config._replace(activation=_activation(scheme, of_input, _InputFakeQuantize))
    elif isinstance(module, ConvBn2d | nn.Conv2d | nn.Linear):
        cast(Any, module).qconfig = config
    elif isinstance(module, Add):
        cast(Any, module.functional).qconfig = config
    elif isinstance(module, nn.BatchNorm2d | nn.ReLU):
        raise ModelError(f"{type(module).__name__} cannot be quantized here", where=f"module '{call.name}'",
                         hint="write convolution, batch norm and ReLU6 as a ConvBn")  # fmt: skip


def _activation(scheme: QuantScheme, observer: str, quantizer: type[_FakeQuantize] = _OutputFakeQuantize) -> Any:
    return quantizer.with_args(
        observer=_OBSERVERS[observer], quant_min=-128, quant_max=127, dtype=torch.qint8,
        qscheme=torch.per_tensor_affine, eps=SCALE_FLOOR, power_of_two=scheme.power_of_two,
    )  # fmt: skip


def _weight(scheme: QuantScheme) -> Any:
    """Observed afresh in each forward pass (averaging constant 1): a weight's extremes are known, not estimated."""
    per_channel = scheme.weights == "per-channel"
    return _FakeQuantize.with_args(
        observer=MovingAveragePerChannelMinMaxObserver if per_channel else MovingAverageMinMaxObserver,
        quant_min=-127 if per_channel else -128, quant_max=127, dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric if per_channel else torch.per_tensor_affine,
        averaging_constant=1.0, eps=SCALE_FLOOR, power_of_two=scheme.power_of_two,
    )  # fmt: skip


def _relu6(scheme: QuantScheme) -> Any:
    observer = FixedQParamsObserver.with_args(
        scale=scheme.relu6_scale, zero_point=-128, dtype=torch.qint8, quant_min=-128, quant_max=127
    )
    return _FixedFakeQuantize.with_args(observer=observer)


def _link_inputs(model: nn.Module) -> None:
    """Tells each layer whose bias or average is rounded on its input's grid which fake quantizer that is."""
    grids: dict[str, FakeQuantizeBase | None] = {"": None}
    for call in trace(model):
        grid = grids[call.inputs[0]]
        if isinstance(call.module, FakeQuantizedLayer | AveragePool):
            if grid is None:
                where = f"module '{call.name}'"
                raise ModelError("its input is not quantized", where=where, hint="begin with a QuantStub")
            call.module.input_quantizer = (grid,)
        grids[call.name] = quantizer_of(call.module) or grid


def _observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    cast(Any, module).activation_post_process(inputs[0].detach())


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} '{value}' is unknown", hint=f"choose one of {', '.join(choices)}")
