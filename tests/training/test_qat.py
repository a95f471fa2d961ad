# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from kws.arithmetic.quant import QuantParams, quantize
from kws.errors import ModelError, UsageError
from training import qat
from training.fake_quantized import FakeQuantizedLayer, bias_step
from training.networks.layers import AveragePool
from training.networks.registry import build
from training.qat import QuantScheme

SCHEMES = (QuantScheme(), QuantScheme(scheme="pow2"), QuantScheme(weights="per-tensor"))
AFFINE = SCHEMES[0]


def layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, FakeQuantizedLayer)]


def activation_quantizers(model: nn.Module) -> list[Any]:
    return [found for module in model.modules() if (found := qat.quantizer_of(module)) is not None]


def is_power_of_two(scale: torch.Tensor) -> bool:
    return bool((torch.frexp(scale)[0] == 0.5).all())


@pytest.mark.parametrize("wrong", [{"scheme": "pow3"}, {"weights": "per-layer"}])
def test_unknown_schemes_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="choose one of"):
        QuantScheme(**wrong)


def test_fusing_in_train_mode_keeps_the_batch_norm_in_eval_mode_folds_it() -> None:
    model: Any = build("ds-cnn-s", (49, 10), 12)
    for _ in range(3):
        model(torch.randn(8, 1, 49, 10))  # statistics that are not 0 and 1
    learning, folded = copy.deepcopy(model).train(), copy.deepcopy(model).eval()
    learning.fuse_model()
    folded.fuse_model()
    assert type(learning.first.conv).__name__ == "ConvBn2d"
    assert type(folded.first.conv).__name__ == "Conv2d"
    assert isinstance(learning.first.bn, nn.Identity)
    assert isinstance(folded.first.bn, nn.Identity)
    x = torch.randn(4, 1, 49, 10)
    expected = model.eval()(x).detach()
    for fused in (learning.eval(), folded):
        assert (fused(x) - expected).abs().max() < 2e-6 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["ds-cnn-s", "tc-resnet"])
def test_every_quantizer_uses_all_its_bits(networks: Any, name: str, scheme: QuantScheme) -> None:
    model = networks.fake_quantized(name, scheme)
    for quantizer in activation_quantizers(model):
        assert (quantizer.quant_min, quantizer.quant_max, quantizer.dtype) == (-128, 127, torch.qint8)
    for layer in layers(model):
        weight = layer.weight_fake_quant
        assert weight.quant_max == 127
        assert weight.quant_min == (-127 if scheme.weights == "per-channel" else -128)
        assert len(weight.scale) == (layer.weight.shape[0] if scheme.weights == "per-channel" else 1)
        if scheme.weights == "per-channel":
            assert not weight.zero_point.any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_relu6_has_a_fixed_range_and_is_the_only_quantizer_of_its_op(networks: Any, scheme: QuantScheme) -> None:
    model = networks.fake_quantized("tc-resnet", scheme)
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU6)]
    assert len(relus) == 7
    for relu in relus:
        quantizer = relu.activation_post_process
        assert float(quantizer.scale) == float(np.float32(2.0**-5 if scheme.power_of_two else 6 / 255))
        assert int(quantizer.zero_point) == -128
    for block in model.blocks:
        assert isinstance(block.conv1.conv.activation_post_process, nn.Identity)
        assert isinstance(block.add.functional.activation_post_process, nn.Identity)
        assert qat.quantizer_of(block.conv2.conv) is not None  # goes into the sum: a range of its own


@pytest.mark.parametrize("weights", ["per-channel", "per-tensor"])
def test_pow2_makes_every_scale_a_power_of_two_that_covers_the_range(networks: Any, weights: str) -> None:
    model = networks.fake_quantized("tc-resnet", QuantScheme(scheme="pow2", weights=weights))
    for quantizer in activation_quantizers(model):
        assert is_power_of_two(quantizer.scale)
    for layer in layers(model):
        assert is_power_of_two(layer.weight_fake_quant.scale)
    for module in (model.quant, model.classifier):
        quantizer = module.activation_post_process
        observer = quantizer.activation_post_process
        low = (quantizer.quant_min - quantizer.zero_point) * quantizer.scale
        high = (quantizer.quant_max - quantizer.zero_point) * quantizer.scale
        assert float(low) <= float(observer.min_val) + float(quantizer.scale)
        assert float(high) >= float(observer.max_val) - float(quantizer.scale)
        assert float(high - low) < 2.1 * float(observer.max_val - observer.min_val)


def test_per_tensor_weights_have_zero_points(networks: Any) -> None:
    model = networks.fake_quantized("ds-cnn-s", QuantScheme(weights="per-tensor"))
    zero_points = [int(layer.weight_fake_quant.zero_point) for layer in layers(model)]
    assert sum(z != 0 for z in zero_points) >= 5


def test_observers_watch_in_train_mode_only(networks: Any) -> None:
    model: Any = qat.prepare_qat(networks.trained("tc-resnet"), AFFINE)
    networks.fit(model, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()(1000 * torch.randn(4, 1, 49, 10))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.train()(1000 * torch.randn(4, 1, 49, 10))
    assert model.quant.activation_post_process.scale > before["quant.activation_post_process.scale"]


def test_of_the_input_a_thousandth_clips(networks: Any) -> None:
    model: Any = qat.prepare_qat(networks.trained("ds-cnn-s"), AFFINE)
    x = torch.randn(400, 1, 49, 10, generator=torch.Generator().manual_seed(3)) ** 3
    for part in torch.split(x, 20):
        model.train()(part)
    quantizer = model.quant.activation_post_process
    q = torch.round(x / quantizer.scale) + quantizer.zero_point
    assert 0.0005 < float(((q < -128) | (q > 127)).float().mean()) < 0.002


def test_preparing_leaves_the_float_network_as_it_is(networks: Any) -> None:
    model = networks.trained("tc-resnet")
    before = str(model), [parameter.clone() for parameter in model.parameters()]
    networks.fit(qat.prepare_qat(model, AFFINE), 1)
    qat.prepare_ptq(model, AFFINE)
    assert str(model) == before[0]
    assert all(torch.equal(a, b) for a, b in zip(before[1], model.parameters(), strict=True))


def test_freeze_fixes_ranges_and_statistics_while_weights_go_on(networks: Any) -> None:
    model = copy.deepcopy(networks.fake_quantized("ds-cnn-s", AFFINE))
    qat.freeze(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    networks.fit(model, 2)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert changed
    assert all(name.endswith(("weight", "bias")) for name in changed)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("training", [False, True])
def test_biases_lie_on_the_int32_grid_in_every_frozen_forward_pass(
    networks: Any, scheme: QuantScheme, training: bool
) -> None:
    model = networks.fake_quantized("ds-cnn-s", scheme).train(training)
    for layer in layers(model):
        _, bias = layer.quantized()
        steps = bias.detach().double() / bias_step(layer)
        assert ((steps - steps.round()).abs() <= 2.0**-23 * steps.abs()).all()  # of a float32 value
        assert steps.abs().max() > 10
    model.eval()


def test_snapping_lets_the_gradient_of_the_bias_through(networks: Any) -> None:
    model = copy.deepcopy(networks.fake_quantized("ds-cnn-s", AFFINE)).train()
    qat.freeze(model)
    x, labels = networks.data(16, 1)
    nn.functional.cross_entropy(model(x), labels).backward()
    assert model.classifier.bias.grad.abs().min() > 0
    assert model.blocks[0].depthwise.conv.bn.bias.grad.abs().max() > 0


def test_a_network_frozen_in_eval_mode_still_learns_in_train_mode(networks: Any) -> None:
    model = copy.deepcopy(networks.fake_quantized("tc-resnet", AFFINE)).eval()
    qat.freeze(model)
    model.train()
    batch_norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not any(module.training for module in batch_norms)
    assert all(module.training for module in model.modules() if module not in batch_norms)
    x, labels = networks.data(16, 1)
    nn.functional.cross_entropy(model(x), labels).backward()
    for layer in layers(model):
        assert layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_train_and_eval_mode_of_a_frozen_network_agree_up_to_float32_sums(networks: Any, scheme: QuantScheme) -> None:
    model = copy.deepcopy(networks.fake_quantized("ds-cnn-s", scheme))
    model.dropout.p = 0.0
    qat.freeze(model)
    x, _ = networks.data(32, 2)
    step = float(model.classifier.activation_post_process.scale)
    difference = (model.train()(x) - model.eval()(x)).abs() / step
    assert difference.max() < 1.5
    assert (difference < 0.5).float().mean() > 0.98


@pytest.mark.parametrize("scheme", SCHEMES)
def test_features_enter_as_the_integers_have_them(networks: Any, scheme: QuantScheme) -> None:
    model = networks.fake_quantized("tc-resnet", scheme)
    quantizer = model.quant.activation_post_process
    scale, zero_point = float(quantizer.scale), int(quantizer.zero_point)
    half_steps = (torch.arange(-600, 600) / 2) * torch.tensor(scale)
    x = torch.cat([half_steps, torch.randn(200_000) * 100 * scale])
    q = quantize(x.numpy(), QuantParams(scale, zero_point))
    assert np.array_equal((model.quant(x) / scale).round().numpy().astype(int) + zero_point, q)


def test_a_dead_channel_keeps_its_bias_inside_int32(networks: Any) -> None:
    float_model = copy.deepcopy(networks.trained("ds-cnn-s"))
    with torch.no_grad():
        float_model.blocks[1].pointwise.bn.weight[5] = 0.0
        float_model.blocks[1].pointwise.bn.bias[5] = 5.0
    model: Any = qat.prepare_ptq(float_model, AFFINE)
    qat.calibrate(model, [networks.data(32, 3)[0]])
    layer = model.blocks[1].pointwise.conv
    steps = layer.quantized()[1].double() / bias_step(layer)
    assert 1e6 < float(steps[5]) < 2**31


@pytest.mark.parametrize("name", ["ds-cnn-s", "tc-resnet"])
@pytest.mark.parametrize("calibration", qat.CALIBRATIONS)
def test_ptq_stays_near_the_float_network(networks: Any, name: str, calibration: str) -> None:
    float_model = networks.trained(name).eval()
    model = qat.prepare_ptq(float_model, AFFINE, calibration)
    qat.calibrate(model, [networks.data(64, seed)[0] for seed in range(3)])
    x, _ = networks.data(64, 9)
    expected = float_model(x)
    assert (model(x) - expected).abs().mean() < 0.05 * expected.std()
    assert all(not quantizer.observer_enabled for quantizer in activation_quantizers(model))


def test_calibrations_differ_in_what_they_leave_out(networks: Any) -> None:
    x, _ = networks.data(400, 5)
    x[0, 0, 0, 0] = 400.0  # one outlier of 196,000 values
    scales = {}
    for calibration in qat.CALIBRATIONS:
        model: Any = qat.prepare_ptq(networks.trained("tc-resnet"), AFFINE, calibration)
        qat.calibrate(model, x.split(100))
        scales[calibration] = float(model.quant.activation_post_process.scale)
    low = float(x.min())
    assert scales["minmax"] == pytest.approx((400 - low) / 255, rel=1e-6)
    low, high = np.quantile(x.numpy(), [1e-4, 1 - 1e-4])
    width = (400 - float(x.min())) / 2048  # of a bin of the histogram
    assert scales["percentile"] == pytest.approx((high - low) / 255, abs=3 * width / 255)
    assert scales["mse"] < scales["minmax"] / 2


def test_unknown_calibration_is_refused(networks: Any) -> None:
    with pytest.raises(UsageError, match="minmax, percentile, mse"):
        qat.prepare_ptq(networks.trained("tc-resnet"), AFFINE, "entropy")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["qat", "ptq", "mse"])
def test_saved_networks_load_to_the_same_bits(networks: Any, tmp_path: Path, kind: str, scheme: QuantScheme) -> None:
    if kind == "qat":
        model = networks.fake_quantized("tc-resnet", scheme)
    else:
        model = qat.prepare_ptq(networks.trained("tc-resnet"), scheme, "mse" if kind == "mse" else "minmax")
        qat.calibrate(model, [networks.data(64, 1)[0]])
    path = tmp_path / "fake_quantized.pt"
    qat.save(path, model, network="tc-resnet", input_shape=(49, 10), n_labels=12)
    loaded: Any = qat.load(path)
    x, _ = networks.data(64, 2)
    assert torch.equal(loaded(x), model(x))
    assert loaded.quant_scheme == scheme
    assert all(not quantizer.observer_enabled for quantizer in activation_quantizers(loaded))


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def test_files_of_strangers_are_refused_and_never_run(
    networks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pt"
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        qat.load(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="is not a fake-quantized network"):
        qat.load(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(ModelError, match="is not a fake-quantized network"):
        qat.load(path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="is not a fake-quantized network"):
        qat.load(path)
    torch.save({"meta": Bomb()}, path)
    with pytest.raises(ModelError, match="is not a fake-quantized network"):
        qat.load(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match="is not a fake-quantized network"):
        qat.load(path)
    assert not (tmp_path / "exploded").exists()
    qat.save(path, networks.fake_quantized("tc-resnet", AFFINE), network="tc-resnet", input_shape=(49, 10), n_labels=12)
    saved = torch.load(path, weights_only=True)
    del saved["state"]["first.conv.weight"]
    torch.save(saved, path)
    with pytest.raises(ModelError, match="does not fit network tc-resnet"):
        qat.load(path)


class Wrong(nn.Module):
    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.body(x))

    def fuse_model(self) -> None:
        pass


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Wrong(qat.QuantStub(), nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), "BatchNorm2d cannot be quantized"),
        (Wrong(qat.QuantStub(), nn.Conv2d(1, 1, 1), nn.ReLU()), "ReLU cannot be quantized"),
        (Wrong(nn.Conv2d(1, 1, 1)), "its input is not quantized .begin with a QuantStub"),
        (Wrong(AveragePool((2, 2))), "its input is not quantized"),
    ],
)
def test_networks_that_cannot_be_quantized_say_why(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        qat.prepare_qat(model, AFFINE)
