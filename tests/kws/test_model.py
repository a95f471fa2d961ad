# SPDX-License-Identifier: Apache-2.0
"""The model file: what is written is read, and nothing that a stranger writes does anything but a ModelError."""

from __future__ import annotations

import copy
import json
import os
import stat
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

import kws.model
from deploy.reference import run
from features.audio import read_audio
from features.frontend import input_features
from kws.detector import Detector
from kws.errors import KwsError, ModelError, UsageError
from kws.model import Model

GOLDEN = Path(__file__).parents[1] / "golden"
FILE = (GOLDEN / "model_v1.kws").read_bytes()
HEADER = json.loads(FILE[8 : 8 + int.from_bytes(FILE[:8], "little")])
VALUES = json.loads(HEADER["__metadata__"]["kws"])
ARRAYS = load_arrays(FILE)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.from_bytes(FILE)


def _file(values: Any = VALUES, arrays: dict[str, Any] = ARRAYS) -> bytes:
    return save_arrays(arrays, {"kws": values if isinstance(values, str) else json.dumps(values)})


def _changed(*path: Any, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(VALUES)
    place = values
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return values


def _attribute(*path: Any, value: Any) -> dict[str, Any]:
    return _changed("graph", "ops", 0, "attributes", *path, value=value)


def _tensor(*path: Any, value: Any) -> dict[str, Any]:
    return _changed("graph", "tensors", 0, *path, value=value)


def _refusal(data: bytes) -> str:
    with pytest.raises(ModelError) as refusal:
        Model.from_bytes(data)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600
    return str(refusal.value)


# What is written is read.


def test_reads_the_golden_file_of_version_1(model: Model) -> None:
    vectors = np.load(GOLDEN / "model_v1.npz")
    np.testing.assert_array_equal(run(model.graph, vectors["x"]), vectors["y"])
    assert model.labels == ("yes", "no", "_silence_", "_unknown_")
    assert model.frontend.n_mfcc == 10
    assert model.frontend.arithmetic == "float"
    assert model.detection.thresholds == (1224, 1224)
    assert model.provenance == {"made by": "tests/golden/make_model_v1.py"}


def test_reads_the_golden_file_of_version_2() -> None:
    model = Model.load(GOLDEN / "model_v2.kws")
    vectors = np.load(GOLDEN / "model_v2.npz")
    np.testing.assert_array_equal(run(model.graph, vectors["x"]), vectors["y"])
    assert (model.frontend, model.detection) == (None, None)
    assert model.labels == ("a", "b", "c")
    assert model.to_bytes() == (GOLDEN / "model_v2.kws").read_bytes()


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_reads_the_golden_file_of_version_2_that_hears_in_integers(engine: str) -> None:
    model = replace(Model.load(GOLDEN / "model_v2_fixed.kws"), engine=engine)
    golden = np.load(GOLDEN / "model_v2_fixed.npz")
    frontend, detection = model.hearing()
    assert frontend.arithmetic == "fixed"
    assert (detection.hop, detection.smoothing, detection.thresholds) == (2, 4, (300, 300))
    samples = read_audio(GOLDEN.parents[1] / "data" / "recordings" / "recording_00.wav", dtype="int16")
    clips = samples[: 24 * 16_000].reshape(24, 16_000)
    found = input_features(clips[: len(golden["features"])], frontend, model.graph.input_params)
    np.testing.assert_array_equal(found, golden["features"])
    np.testing.assert_array_equal(model.logits(clips), golden["logits"])
    events = model.detect(samples)
    assert [event.label for event in events] == golden["labels"].tolist() == ["b", "a", "b"]
    times_and_scores = np.array([(event.start, event.end, event.score) for event in events])
    np.testing.assert_array_equal(times_and_scores, golden["times_and_scores"])
    assert model.to_bytes() == (GOLDEN / "model_v2_fixed.kws").read_bytes()


def test_version_1_always_has_a_front_end(model: Model) -> None:
    assert _refusal(_file(_changed("frontend", value=None))).startswith("frontend: is a NoneType, not an object")
    half = _changed("frontend", value=None) | {"version": 2}
    assert _refusal(_file(half)).startswith("frontend: is a NoneType, not an object")
    with pytest.raises(ModelError, match="detection: is there without the other of front-end and detection"):
        replace(model, frontend=None).to_bytes()


def test_a_model_without_a_front_end_says_so(model: Model) -> None:
    deaf = replace(model, frontend=None, detection=None)
    deaf.check()
    for use in (deaf.logits, deaf.predict, deaf.detect, lambda _: Detector(deaf)):
        with pytest.raises(ModelError, match="front-end: is none: this model takes features, not sound"):
            use(np.zeros(16000, np.int16))


def test_a_round_trip_changes_nothing(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "a.kws")
    again = Model.load(tmp_path / "a.kws")
    assert again.to_bytes() == model.to_bytes() == (tmp_path / "a.kws").read_bytes()
    assert (again.labels, again.frontend, again.detection) == (model.labels, model.frontend, model.detection)
    for name, tensor in model.graph.tensors.items():
        other = again.graph.tensors[name]
        assert (tensor.shape, tensor.scale, tensor.zero_point) == (other.shape, other.scale, other.zero_point)
    x = np.random.default_rng(0).integers(-128, 128, (5, *model.graph.input_shape)).astype(np.int8)
    np.testing.assert_array_equal(run(again.graph, x), run(model.graph, x))


def test_load_takes_a_file_a_run_folder_or_a_name(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    model.save(tmp_path / "run" / "model.kws")
    model.save(tmp_path / "mine.kws")
    monkeypatch.setattr(kws.model, "SHIPPED", tmp_path)
    for path in (tmp_path / "mine.kws", tmp_path / "run", str(tmp_path / "run"), "mine"):
        assert kws.model.load(path).labels == model.labels
    with pytest.raises(ModelError, match=r"model 'nothing': is no file, run folder .*\(models that ship: mine\)"):
        kws.model.load("nothing")
    with pytest.raises(ModelError, match=r"is a folder without model\.kws"):
        kws.model.load(tmp_path)
    monkeypatch.chdir(tmp_path / "run")  # a folder of which it is known that no "mine" lies beside it
    with pytest.raises(ModelError, match="is no file"):
        kws.model.load("../mine")


def test_an_interrupted_save_leaves_the_old_file(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.kws"
    path.write_bytes(b"old")

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        model.save(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_saved_file_can_be_read_by_others(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "m.kws")
    assert stat.S_IMODE((tmp_path / "m.kws").stat().st_mode) & 0o444 == 0o444


def test_save_refuses_what_load_would_refuse(model: Model, tmp_path: Path) -> None:
    for changed, message in (
        (replace(model, labels=("a", "a", "b", "c")), "labels"),
        (replace(model, labels=("a", "b", "c")), r"graph.output: output shape \(4,\) does not fit 3 labels"),
        (replace(model, provenance={"x": {1, 2}}), "provenance: does not fit into JSON"),
        (replace(model, provenance={"x": float("nan")}), "provenance: does not fit into JSON"),
    ):
        with pytest.raises(ModelError, match=message):
            changed.save(tmp_path / "m.kws")
    with pytest.raises(ModelError, match="cannot be written"):
        model.save(tmp_path / "no" / "m.kws")
    assert list(tmp_path.iterdir()) == []


# Samples to labels.


def test_logits_are_those_of_the_quantized_features(model: Model) -> None:
    samples = (np.random.default_rng(0).standard_normal((3, 16000)) * 3000).astype(np.int16)
    logits = model.logits(samples)
    assert logits.shape == (3, 4)
    assert logits.dtype == np.int8
    np.testing.assert_array_equal(model.logits(samples[1]), logits[1:2])
    np.testing.assert_array_equal(model.logits(samples / np.float32(32768)), logits)
    assert model.predict(samples) == [model.labels[i] for i in logits.argmax(axis=1)]
    short = np.pad(samples[:1, :9000], ((0, 0), (0, 7000)))
    np.testing.assert_array_equal(model.logits(samples[:1, :9000]), model.logits(short))


def test_detect_takes_a_file_or_samples(model: Model, tmp_path: Path) -> None:
    samples = (np.random.default_rng(0).standard_normal(30000) * 3000).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    events = model.detect(tmp_path / "a.wav")
    assert events == model.detect(str(tmp_path / "a.wav")) == model.detect(samples)


# Refusals name the field.


def test_a_newer_version_is_refused_in_one_line() -> None:
    message = _refusal(_file({"version": 3, "whatever": []}))
    assert message == "version 3 is newer than 2, the newest that this program reads (update integer-kws)"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("[1", "metadata: is not JSON"),
        ('{"version": NaN}', "metadata: is not JSON"),
        ("[" * 100_000, "metadata: is not JSON"),
        ("9" * 5000, "metadata: is not JSON"),
        ([], "model: is a list, not an object"),
        ({}, "model.version: is missing"),
        (_changed("version", value=True), "version: is not a version"),
        (_changed("version", value=0), "version: is not a version"),
        (VALUES | {"more": 1}, "model.more: is unknown"),
        (_changed("provenance", value=[]), "provenance: is not an object"),
        (_changed("labels", value="yes"), "labels: is a string, not a list"),
        (_changed("labels", 0, value=7), "labels[0]: is 7, not a string"),
        (_changed("labels", 0, value="a\nb"), "labels[0]: is not 1 to 64 printable"),
        (_changed("labels", value=["a", "b"]), "graph.output: output shape (4,) does not fit 2 labels"),
        (_changed("labels", value=["a"] * 300), "labels: has 300 entries, more than 256"),
        (_changed("frontend", "n_fft", value=1 << 30), "frontend.n_fft: is 1073741824, outside"),
        (_changed("frontend", "hop_length", value=320), "graph.input: input shape (25, 10, 1) is not the front-end's"),
        (_changed("frontend", "n_mels", value=250), "frontend.n_mels: is 250, so that mel band"),
        (_changed("detection", "thresholds", value=[1]), "detection."),
        (_changed("detection", "smoothing", value=10**12), "detection.smoothing"),
        (_changed("graph", value=3), "graph: is 3, not an object"),
        (_changed("graph", "rounding", value="up"), "graph.rounding: 'up' is not one of single"),
        (_changed("graph", "input", value=None), "graph.input: is None, not a string"),
        (_changed("graph", "ops", value={}), "graph.ops: is an object, not a list"),
        (_changed("graph", "ops", value=[{}] * 5000), "graph.ops: has 5000 entries, more than"),
        (_changed("graph", "ops", 0, "kind", value="custom"), "graph.ops[0].kind: 'custom' is no op"),
        (_changed("graph", "ops", 0, "inputs", 0, value="nothing"), "op 'conv': input 'nothing' is not made"),
        (_attribute("stride", value=[1]), "graph.ops[0].attributes.stride: has 1 entries"),
        (_attribute("stride", value=[1, 2.5]), "graph.ops[0].attributes.stride[1]: is 2.5"),
        (_attribute("stride", value=[0, 1]), "op 'conv': stride (0, 1)"),
        (_attribute("padding", value=7), "graph.ops[0].attributes.padding: is 7, not a list"),
        (
            _attribute("requant", "activation_max", value=1 << 40),
            "graph.ops[0].attributes.requant.activation_max: is 1099511627776, not an integer of 32 bits",
        ),
        (_tensor("shape", value=[10**9, 10**9]), "tensor 'input': shape (1000000000,"),
        (_tensor("shape", value=[-1, 10, 1]), "tensor 'input': shape (-1,"),
        (_tensor("dtype", value="float64"), "graph.tensors[0].dtype: 'float64' is not one of"),
        (_tensor("scale", value="per_channel"), "graph.tensors[0]: array 'input:scale' is missing"),
        (_tensor("scale", value=10**400), "graph.tensors[0].scale: is too large"),
        (_tensor("scale", value=None), "tensor 'input': has no per-tensor scale"),
        (_tensor("zero_point", value=300), "tensor 'input': zero_point 300 is outside"),
        (_tensor("constant", value=True), "graph.tensors[0]: array 'input' is missing"),
        (_changed("graph", "tensors", 1, value=VALUES["graph"]["tensors"][0]), "graph.tensors: two tensors have"),
    ],
)  # fmt: skip
def test_refusals_name_the_field(values: Any, message: str) -> None:
    assert _refusal(_file(values)).startswith(message)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"conv/weight": ARRAYS["conv/weight"][:3]}, "array 'conv/weight' is int8(3, 4, 4, 1), not int8(8, 4, 4, 1)"),
        ({"conv/bias": ARRAYS["conv/bias"].astype(np.float32)}, "array 'conv/bias' is float32(8,), not int32(8,)"),
        ({"conv/bias": ARRAYS["conv/bias"].astype(np.int64)}, "array 'conv/bias' is not one of I8, I32, F32"),
        ({"conv/bias": np.full(8, (1 << 31) - 1, np.int32)}, "op 'conv': an int32 sum can reach"),
        ({"conv:requant.shift": np.full(8, 31, np.int32)}, "graph.ops[0].attributes.requant: multiplier"),
        ({"conv:requant.multiplier": np.full(8, 1 << 30, np.int32)}, "op 'conv': requant: multiplier and shift"),
        ({"conv:requant.shift": np.zeros(3, np.int32)}, "graph.ops[0].attributes.requant: array 'conv:requant.shift'"),
        ({"conv/weight:scale": np.full(8, np.nan, np.float32)}, "tensor 'conv/weight': scale nan"),
        ({"conv/weight:scale": np.zeros(8, np.float32)}, "tensor 'conv/weight': scale 0.0"),
        ({"more": np.zeros(3, np.int8)}, "graph: array 'more' belongs to nothing"),
    ],
)
def test_refusals_name_the_array(arrays: dict[str, Any], message: str) -> None:
    assert message in _refusal(_file(arrays=ARRAYS | arrays))


def test_load_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.kws"
    path.write_bytes(_file(_tensor("zero_point", value=300)))
    with pytest.raises(ModelError, match=r"^\S+bad\.kws: tensor 'input': zero_point 300 is outside"):
        kws.model.load(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.kws"
    with path.open("wb") as file:
        file.truncate(kws.model.MAX_FILE_BYTES + 1)
    with pytest.raises(ModelError, match="has more than 67108864 bytes"):
        kws.model.load(path)


@pytest.mark.parametrize("size", [0, 1 << 22, (1 << 22) + 1, 1 << 62, (1 << 64) - 1])
def test_a_header_of_a_hostile_size_is_refused_without_memory(size: int) -> None:
    tracemalloc.start()
    _refusal(size.to_bytes(8, "little") + b"{}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    "header",
    [
        b"", b"[]", b"null", b'{"__metadata__": {"kws": 1}}', b'{"__metadata__": {"kws": "{}", "x": "y"}}', b'{"a": 1}',
        b'{"__metadata__": {"kws": "{}"}, "a": {"dtype": "I8", "shape": [4], "data_offsets": [0, 99]}}',
        b'{"__metadata__": {"kws": "{}"}, "a": {"dtype": "I8", "shape": [1e99], "data_offsets": [0, 0]}}',
        b'{"__metadata__": {"kws": "{}"}, "a": {"dtype": "I8", "shape": [-1], "data_offsets": [0, 0]}}',
        b'{"__metadata__": {"kws": "{}"}, "a": {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}}',
        b'{"__metadata__": {"kws": "{}"}, "a": {"dtype": ["I8"], "shape": [0], "data_offsets": [0, 0]}}',
        b'{"__metadata__": {"kws": "{}"}, "a": {"dtype": "I8", "shape": [1152921504606847], "data_offsets": [0, 0]}}',
        b"\xff\xfe", b"{" * 200_000,
    ],
)  # fmt: skip
def test_a_hostile_header_is_refused(header: bytes) -> None:
    _refusal(len(header).to_bytes(8, "little") + header)


# Damage.


def _loads_or_refuses(data: bytes) -> bool:
    """Whether a damaged file loads; then it runs as well. Anything but a ModelError fails the test."""
    try:
        model = Model.from_bytes(data)
    except ModelError:
        return False
    x = np.full((1, *model.graph.input_shape), -128, np.int8)
    assert run(model.graph, x).shape == (1, len(model.labels))
    return True


def test_every_truncation_is_refused() -> None:
    for length in [*range(0, 1200, 7), *range(1200, len(FILE), 211), len(FILE) - 1]:
        assert not _loads_or_refuses(FILE[:length]), f"{length} bytes were taken for a model"


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(FILE) - 1), st.integers(0, 7)), min_size=1, max_size=4))
def test_flipped_bits_are_refused_or_harmless(flips: list[tuple[int, int]]) -> None:
    data = bytearray(FILE)
    for position, bit in flips:
        data[position] ^= 1 << bit
    _loads_or_refuses(bytes(data))


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, item in inner for p in [(*path, key), *_places(item, (*path, key))]]


hostile_numbers = st.sampled_from(
    [0, -1, 1, 2, 255, 256, -129, 2**31, -(2**31), 2**63, 2**64, 10**30, 0.5, -0.0, 1e308]
)
hostile_values = st.recursive(
    st.none() | st.booleans() | hostile_numbers | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
names_of_others = st.sampled_from(
    [t["name"] for t in VALUES["graph"]["tensors"]] + [o["kind"] for o in VALUES["graph"]["ops"]]
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_json_is_refused_or_harmless(data: st.DataObject) -> None:
    values = copy.deepcopy(VALUES)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(_places(values)))
        place = values
        for step in path[:-1]:
            place = place[step]
        action = data.draw(st.sampled_from(["replace", "rename", "delete", "double"]))
        if action == "replace":
            place[path[-1]] = data.draw(hostile_values)
        elif action == "rename":
            place[path[-1]] = data.draw(names_of_others)
        elif action == "delete":
            del place[path[-1]]
        elif isinstance(place, list):
            place.append(copy.deepcopy(place[path[-1]]))
        else:
            place["more"] = place[path[-1]]
        if not _places(values):
            break
    _loads_or_refuses(_file(values))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(ARRAYS)), st.sampled_from(["int8", "int32", "float32", "int16"]), st.data())
def test_mutated_arrays_are_refused_or_harmless(name: str, dtype: str, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([ARRAYS[name].shape, (), (0,), (1,), (8,), (8, 1, 1, 8), (1, 1, 1, 1, 1)]))
    value = data.draw(st.sampled_from([0, 1, -1, 127, -128, 2**30, 2**31 - 1, -(2**31)]))
    with np.errstate(all="ignore"):
        array = np.full(shape, value, np.int64).astype(dtype)
    _loads_or_refuses(_file(arrays=ARRAYS | {name: array}))


def test_refusals_are_kws_errors() -> None:
    assert issubclass(ModelError, KwsError)


def test_no_clips_have_no_logits(model: Model) -> None:
    none = np.zeros((0, 16000), np.int16)
    assert model.logits(none).shape == (0, 4)
    assert model.logits(none).dtype == np.int8
    assert model.predict(none) == []


def test_load_refuses_an_unknown_engine() -> None:
    with pytest.raises(UsageError, match=r"unknown engine 'x' \(one of native, reference\)"):
        kws.model.load(GOLDEN / "model_v1.kws", engine="x")
