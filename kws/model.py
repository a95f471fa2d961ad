# SPDX-License-Identifier: Apache-2.0
"""The `.kws` model file: everything that makes a detector in one safetensors file, safe to open from a stranger.

Named tensors, and one metadata entry ``kws`` of JSON: version, graph, front-end, labels, detection, provenance. Every
size, name, shape, type, attribute, (S, Z) and sum is checked before anything runs.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from deploy import engine as engines
from deploy.codec import fields_of, graph_from_dict, graph_to_dict, items_of, string
from deploy.graph import Graph
from deploy.ops.softmax import softmax_multiplier
from features.config import FrontendConfig
from features.frontend import input_features
from features.quantize import clip_samples
from features.tables import mel_weights
from kws.detector import DetectionConfig, Detector, Event
from kws.errors import KwsError, ModelError, UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 2
"""2: `frontend.arithmetic`, which was always "float" before, and models without a front-end."""
SUFFIX = ".kws"
RUN_FILE = "model.kws"
SHIPPED = Path(__file__).parent / "models"

MAX_FILE_BYTES = 64 << 20
MAX_HEADER_BYTES = 4 << 20
MAX_LABELS = 256
MAX_NESTING = 64
_DTYPES = ("I8", "I32", "F32")
_FIELDS = ("version", "graph", "frontend", "labels", "detection", "provenance")


@dataclass(frozen=True, eq=False, slots=True)
class Model:
    """A detector: the integer graph, what its input is made of, what its outputs mean, and when to fire.

    `frontend` and `detection` are both None in a network that others made of features that are not ours: it runs, is
    exported and profiled, and hears no sound.

    `labels` are the keywords in training order, then ``_silence_`` and ``_unknown_``. `provenance` says where the model
    comes from, in values fit for JSON: data hashes, command, git revision, metrics. `engine`, one of
    `deploy.engine.ENGINES`, runs the graph; it is not in the file.
    """

    graph: Graph
    frontend: FrontendConfig | None
    labels: tuple[str, ...]
    detection: DetectionConfig | None
    provenance: dict[str, Any] = field(default_factory=dict)
    engine: str = "native"

    def check(self) -> None:
        """ModelError, with the field, where the parts are wrong or do not fit one another."""
        self.graph.check()
        if not 1 <= len(self.labels) <= MAX_LABELS:
            raise ModelError(f"{len(self.labels)} labels are not 1 to {MAX_LABELS}", where="labels")
        for index, label in enumerate(self.labels):
            if label in self.labels[:index]:
                raise ModelError(f"{label!r} is there twice", where=f"labels[{index}]")
            if not (1 <= len(label) <= 64 and label.isprintable() and label == label.strip()):
                raise ModelError("is not 1 to 64 printable characters", where=f"labels[{index}]")
        if (self.frontend is None) != (self.detection is None):
            raise ModelError("is there without the other of front-end and detection", where="detection")
        if self.frontend is not None and self.graph.input_shape != self.frontend.input_shape:
            what = f"input shape {self.graph.input_shape} is not the front-end's {self.frontend.input_shape}"
            raise ModelError(what, where="graph.input")
        if self.graph.output_shape != (len(self.labels),):
            what = f"output shape {self.graph.output_shape} does not fit {len(self.labels)} labels"
            raise ModelError(what, where="graph.output")
        _ = self.graph.input_params  # has a scale
        if self.graph.ops[-1].kind != "softmax":
            softmax_multiplier(self.graph.output_params.scale)
        if self.frontend is not None and self.detection is not None:
            mel_weights(self.frontend)  # every band holds a bin
            self.detection.check(self.labels, self.frontend)

    def hearing(self) -> tuple[FrontendConfig, DetectionConfig]:
        """What it takes to hear: front-end and detection. ModelError for a model that has none."""
        if self.frontend is None or self.detection is None:
            what = "is none: this model takes features, not sound"
            raise ModelError(what, where="front-end", hint="kws import --preset P, where one of ours made its features")
        return self.frontend, self.detection

    def save(self, path: str | Path) -> None:
        """Write the file at once or not at all. ModelError for a model that `load` would refuse."""
        write_atomically(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of the file, the same for the same model."""
        self.check()
        graph, arrays = graph_to_dict(self.graph)
        values = {
            "version": VERSION,
            "graph": graph,
            "frontend": None if self.frontend is None else self.frontend.to_dict(),
            "labels": list(self.labels),
            "detection": None if self.detection is None else self.detection.to_dict(),
            "provenance": self.provenance,
        }
        try:
            text = json.dumps(values, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ModelError(f"does not fit into JSON: {error}", where="provenance") from None
        _json(text, "provenance")  # can be read again
        data = save_arrays({name: np.ascontiguousarray(a) for name, a in arrays.items()}, {"kws": text})
        if len(data) > MAX_FILE_BYTES or int.from_bytes(data[:8], "little") > MAX_HEADER_BYTES:
            raise ModelError(f"the file would have {len(data)} bytes, too many to be read again")
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Model:
        """The model in the content of a file. ModelError, with the field, for anything that is not one."""
        try:
            return cls._read(data)
        except KwsError as error:
            where = None if error.where is None else printable(error.where)
            raise ModelError(printable(error.what), where=where, hint=error.hint) from None

    @classmethod
    def _read(cls, data: bytes) -> Model:
        values, arrays = _parse(data)
        version = values.get("version") if isinstance(values, dict) else None
        if type(version) is int and version > VERSION:
            what = f"version {str(version)[:20]} is newer than {VERSION}, the newest that this program reads"
            raise ModelError(what, hint="update integer-kws")
        found = fields_of(values, _FIELDS, "model")
        if version not in (1, VERSION) or type(version) is not int:
            raise ModelError("is not a version", where="version")
        _, graph, frontend, labels, detection, provenance = found
        if not isinstance(provenance, dict):
            raise ModelError("is not an object", where="provenance")
        deaf = version > 1 and frontend is None and detection is None
        model = cls(
            graph_from_dict(graph, arrays),
            None if deaf else _frontend(_of_version(frontend, version)),
            tuple(string(label, where) for label, where in items_of(labels, "labels", MAX_LABELS)),
            None if deaf else DetectionConfig.from_dict(detection),
            provenance,
        )
        model.check()
        return model

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """The model in a `.kws` file, in a run folder, or of the name of one that ships. ModelError otherwise."""
        file = resolve(path)
        try:
            if file.stat().st_size > MAX_FILE_BYTES:
                raise ModelError(f"has more than {MAX_FILE_BYTES} bytes")
            return cls.from_bytes(file.read_bytes())
        except OSError as error:
            raise ModelError(f"cannot be read: {error.strerror}", where=file) from None
        except KwsError as error:
            what = error.what if error.where is None else f"{error.where}: {error.what}"
            raise ModelError(what, where=file, hint=error.hint) from None

    def logits(self, samples: NDArray[Any]) -> NDArray[np.int8]:
        """The graph's int8 outputs (B, n_labels) for clips (B, n) or one clip (n,), int16 or floats in [-1, 1).

        A clip is padded with zeros, or cut at both ends, to the length that the front-end sees.
        """
        frontend, _ = self.hearing()
        batch = np.atleast_2d(samples)
        if batch.ndim != 2:
            raise UsageError(f"samples of shape {batch.shape} are neither (n,) nor (B, n)")
        clips = np.empty((len(batch), frontend.clip_samples), batch.dtype)
        for clip, samples_of_clip in zip(clips, batch, strict=True):
            clip[:] = clip_samples(samples_of_clip, len(clip))
        q = input_features(clips, frontend, self.graph.input_params)
        return self.run(q[..., None])

    def run(self, x: NDArray[np.int8]) -> NDArray[np.int8]:
        """The graph's int8 outputs (N, n_labels) for its int8 inputs (N, *input_shape), by this model's engine."""
        return engines.run(self.graph, x, self.engine)

    def predict(self, samples: NDArray[Any]) -> list[str]:
        """The most likely label of each clip of `samples`, which are as for `logits`."""
        return [self.labels[index] for index in self.logits(samples).argmax(axis=1)]

    def detect(self, source: str | Path | NDArray[Any]) -> list[Event]:
        """The keywords in a sound file, or in mono samples (n,) at the model's rate: int16 or floats in [-1, 1)."""
        return Detector(self).detect(source)


def load(path: str | Path, engine: str = "native") -> Model:
    """`Model.load`: a `.kws` file, a run folder, or the name of a model that ships, to be run by `engine`.

    UsageError for an engine that is none of `deploy.engine.ENGINES`.
    """
    if engine not in engines.ENGINES:
        raise UsageError(f"unknown engine {engine!r}", hint="one of " + ", ".join(engines.ENGINES))
    return replace(Model.load(path), engine=engine)


def resolve(path: str | Path) -> Path:
    """The file that `path` means; ModelError when it is no file, no run folder and no name of a shipped model."""
    if path == "":
        raise UsageError("no model is named: the name is empty")
    given = Path(path)
    if given.is_file():
        return given
    if given.is_dir() and (given / RUN_FILE).is_file():
        return given / RUN_FILE
    shipped = SHIPPED / f"{path}{SUFFIX}"
    if len(given.parts) == 1 and shipped.is_file():
        return shipped
    names = ", ".join(sorted(file.stem for file in SHIPPED.glob(f"*{SUFFIX}"))) or "none"
    what = f"is a folder without {RUN_FILE}" if given.is_dir() else "is no file, run folder or shipped model"
    raise ModelError(what, where=f"model '{path}'", hint=f"models that ship: {names}")


def _parse(data: bytes) -> tuple[object, Mapping[str, NDArray[Any]]]:
    """The JSON entry and the arrays of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ModelError("is not a model file, or is cut short")
    header = _json(data[8 : 8 + size], "header")
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or set(metadata) != {"kws"} or not isinstance(metadata["kws"], str):
        raise ModelError("has no entry 'kws' alone in its metadata, so it is no model file")
    for name, entry in header.items():
        if name != "__metadata__" and (not isinstance(entry, dict) or entry.get("dtype") not in _DTYPES):
            raise ModelError(f"array {name[:140]!r} is not one of {', '.join(_DTYPES)}")
    try:
        arrays = load_arrays(data)
    except (SafetensorError, ValueError, OverflowError) as error:
        raise ModelError(f"is damaged: {str(error)[:200]}") from None
    return _json(metadata["kws"], "metadata"), arrays


def _of_version(frontend: object, version: int) -> object:
    """The front-end of a file with the field that version 1 did not have."""
    return {"arithmetic": "float", **frontend} if version == 1 and isinstance(frontend, dict) else frontend


def _frontend(values: object) -> FrontendConfig:
    try:
        return FrontendConfig.from_dict(values)
    except OverflowError:  # an integer that no float holds
        raise ModelError("holds a number that is too large", where="frontend") from None


def _json(text: str | bytes, where: str) -> Any:
    """JSON without NaN, infinities and deep nesting; ModelError for anything else."""
    try:
        values = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        raise ModelError("is not JSON", where=where) from None
    level = [values]
    for _ in range(MAX_NESTING):
        containers = [
            item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)
        ]
        level = [item for container in containers for item in container]
    if level:  # printing or writing it could exhaust Python's stack
        raise ModelError(f"is nested more than {MAX_NESTING} deep", where=where)
    return values


def _finite(text: str) -> float:
    """The number that JSON says; 1e999 is as little one as Infinity."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def write_atomically(path: Path, data: bytes) -> None:
    """`path` holds either its old content or all of `data`, whenever the machine stops.

    A link stays one: the file that it leads to is written. What is no file, such as /dev/stdout, is written into.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        file_itself = os.path.realpath(path)
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(file_itself), prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, file_itself)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise ModelError(f"cannot be written: {error.strerror}", where=path) from None
