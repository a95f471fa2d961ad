# SPDX-License-Identifier: Apache-2.0
"""The integers compute what QAT evaluated: on recorded words, networks trained as `kws train` does, but shorter."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.graph import Graph
from features.config import get_preset
from features.frontend import features
from features.quantize import clip_samples, quantize_features
from training import qat
from training.compare import FakeQuantizedOps, compare_logits, compare_network, compare_ops, float_logits, sign_test
from training.convert import convert
from training.dataset import load, scan
from training.networks.registry import build
from training.qat import QuantScheme
from training.torch_engine import TorchEngine

CORPUS = Path(__file__).parents[2] / "data"
KEYWORDS = ("yes", "stop", "left", "right")
AFFINE = QuantScheme()
AFFINE_OPS = ("conv2d", "depthwise_conv2d", "fully_connected")


@dataclass(frozen=True)
class Clips:
    """Features (N, T, F) and labels (N,) to train on, and of other speakers, with silence in both."""

    training: tuple[NDArray[np.float32], NDArray[np.int64]]
    held_out: tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Sums in one order: the networks of this file are the same on any number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def clips(preset: str) -> Clips:
    frontend = get_preset(preset)
    corpus = scan((CORPUS,), keywords=KEYWORDS)
    recordings = load(corpus.clips).recordings
    rows = [features(clip_samples(recordings[i], 16_000), frontend) for i in range(len(recordings))]
    labels = [corpus.label_of(clip.word) for clip in recordings.clips]
    held_out = [clip.split != "training" for clip in recordings.clips]
    random = np.random.default_rng(0)
    for i in range(60):
        noise = (random.standard_normal(16_000) * 10 ** random.uniform(-4, -1)).astype(np.float32)
        rows.append(features(noise if i % 10 else np.zeros(16_000, np.float32), frontend))
        labels.append(corpus.silence)
        held_out.append(i < 20)
    x, y, other = np.stack(rows), np.array(labels), np.array(held_out)
    return Clips((x[~other], y[~other]), (x[other], y[other]))


def fit(model: nn.Module, preset: str, epochs: int, learning_rate: float) -> None:
    x, y = map(torch.from_numpy, clips(preset).training)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch, None]), y[batch]).backward()
            optimizer.step()


@cache
def trained(network: str, preset: str) -> nn.Module:
    torch.manual_seed(0)
    model = build(network, get_preset(preset).input_shape[:2], len(KEYWORDS) + 2)
    fit(model, preset, 3, 3e-3)
    return model


def quantized(network: str, preset: str, scheme: QuantScheme, ptq: bool) -> nn.Module:
    model = trained(network, preset)
    if ptq:
        model = qat.prepare_ptq(model, scheme)
        qat.calibrate(model, torch.from_numpy(clips(preset).training[0][:200, None]).split(50))
        return model
    torch.manual_seed(1)
    model = qat.prepare_qat(model, scheme)
    fit(model, preset, 1, 5e-4)
    qat.freeze(model)
    fit(model, preset, 1, 2e-4)
    qat.avoid_ties(model)
    return model.eval()


@pytest.mark.parametrize(
    ("network", "preset", "scheme", "ptq"),
    [
        ("ds-cnn-s", "mfcc10", AFFINE, False),
        ("ds-cnn-s", "mfcc10", AFFINE, True),
        ("ds-cnn-s", "mfcc10", QuantScheme(weights="per-tensor"), False),
        ("ds-cnn-s", "mfcc10", QuantScheme(scheme="pow2"), False),
        ("tc-resnet", "mfb40", AFFINE, False),
        ("tc-resnet", "mfb40", QuantScheme(scheme="pow2"), False),
    ],
)
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_the_integers_compute_what_qat_evaluated(network: str, preset: str, scheme: QuantScheme, ptq: bool) -> None:
    model = quantized(network, preset, scheme, ptq)
    simulated = "half_even" if scheme.power_of_two else "single"
    graph = convert(model, get_preset(preset).input_shape, rounding=simulated)
    if scheme.weights == "per-tensor":
        zero_points = [tensor.zero_point for name, tensor in graph.tensors.items() if name.endswith("/weight")]
        assert sum(z != 0 for z in zero_points) >= 5
    x, labels = clips(preset).held_out
    assert len(x) >= 200

    for agreement in compare_network(model, graph, x, labels):
        if agreement.rounding == simulated:
            assert agreement.equal >= 0.995
            assert agreement.max_step <= 1
        assert agreement.p_value > 0.05

    q = quantize_features(x, graph.input_params)[..., None]
    for op in compare_ops(FakeQuantizedOps(model, graph).run_op, graph, q):
        assert op.n_different <= 10e-6 * op.n_values, op
        assert op.n_unexplained == 0, op

    half_even = graph.with_rounding("half_even")
    ops = compare_ops(TorchEngine(half_even).run_op, half_even, q)
    affine = [op for op in ops if op.kind in AFFINE_OPS]
    assert sum(op.n_different for op in affine) <= 1e-6 * sum(op.n_values for op in affine)
    assert all(op.n_unexplained == 0 and op.max_step <= 1 for op in ops)
    if scheme.power_of_two:
        assert not any(op.n_different for op in affine)


def small(networks: Any) -> tuple[nn.Module, Graph, NDArray[np.int8]]:
    model = networks.fake_quantized("tc-resnet", AFFINE)
    graph = convert(model, (49, 10, 1))
    x: Tensor = networks.data(60, 7)[0]
    return model, graph, quantize_features(x[:, 0].numpy(), graph.input_params)[..., None]


@pytest.mark.parametrize("name", ["first.conv", "blocks.1.conv2.conv", "classifier"])
def test_one_wrong_weight_is_no_tie(networks: Any, name: str) -> None:
    model, graph, x = small(networks)
    tensor = graph.tensors[f"{name}/weight"]
    assert tensor.data is not None
    weight = tensor.data.copy()
    weight.reshape(-1)[0] = 127 if weight.reshape(-1)[0] < 0 else -127
    tensors = {**graph.tensors, tensor.name: dataclasses.replace(tensor, data=weight)}
    wrong = dataclasses.replace(graph, tensors=tensors)
    reports = {op.name: op for op in compare_ops(FakeQuantizedOps(model, graph).run_op, wrong, x)}
    assert reports[name].n_unexplained > 0
    assert all(op.n_unexplained == 0 for op in reports.values() if op.name != name)


def test_a_wrong_sum_and_a_wrong_pool_are_seen(networks: Any) -> None:
    model, graph, x = small(networks)
    right = FakeQuantizedOps(model, graph).run_op

    def run_op(op: Any, inputs: Any) -> NDArray[np.int8]:
        output = right(op, inputs)
        return output + (output < 100) if op.kind in ("add", "average_pool") else output

    for op in compare_ops(run_op, graph, x):
        if op.kind in ("add", "average_pool"):
            assert op.n_different > 0.9 * op.n_values
            assert op.max_step == 1
            assert (op.n_unexplained > 0) == (op.kind == "add")
        else:
            assert op.n_different <= 1


def test_float_logits_are_those_of_eval_mode_in_any_batch(networks: Any) -> None:
    model = networks.fake_quantized("tc-resnet", AFFINE)
    x: Tensor = networks.data(300, 3)[0]
    assert np.array_equal(float_logits(model, x[:, 0].numpy()), model.eval()(x).detach().numpy())


def test_counts_of_logits_and_labels() -> None:
    expected = np.array([[9, 5, 1], [1, 2, 3], [4, 5, 3], [7, 0, 0]], np.int8)
    actual = np.array([[9, 5, 1], [1, 4, 3], [6, 5, 3], [7, 0, 1]], np.int8)
    agreement = compare_logits(expected, actual, np.array([0, 2, 0, 0]), rounding="tflm")
    assert (agreement.n_clips, agreement.n_values, agreement.n_equal, agreement.max_step) == (4, 12, 9, 2)
    assert agreement.n_clips_different == 3
    assert agreement.argmax_changed == (1, 2)
    assert (agreement.right_to_wrong, agreement.wrong_to_right) == (1, 1)
    assert agreement.equal == 0.75
    assert agreement.p_value == 1.0


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (3, 3, 1.0), (5, 0, 0.0625), (0, 6, 0.03125), (1, 8, 20 / 512), (19, 8, 0.0522)],
)
def test_sign_test_is_exact(a: int, b: int, p: float) -> None:
    assert sign_test(a, b) == pytest.approx(p, rel=1e-3)
    assert sign_test(b, a) == sign_test(a, b)
