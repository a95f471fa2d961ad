# SPDX-License-Identifier: Apache-2.0
"""Models of others as `.kws` models."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from deploy.importers import tflite
from features.config import FrontendConfig, get_preset
from kws.detector import DetectionConfig, keywords_of
from kws.errors import KwsError, ModelError
from kws.model import Model


def import_tflite(path: str | Path, *, labels: Sequence[str] | None = None, preset: str | None = None) -> Model:
    """The model in a .tflite file; `labels` are its outputs in order, `preset` is the front-end that it was trained on.

    A file that `kws export --to tflite` wrote brings both, and its thresholds, which are the default where either is
    given; others are numbered `class_0`, ... and have no front-end.
    ModelError, with the operator, for what the graph cannot hold, and where labels or front-end do not fit;
    UsageError for an unknown preset.
    """
    file = Path(path)
    frontend = None if preset is None else get_preset(preset)
    try:
        if file.exists() and not file.is_file():  # a device or a pipe has no end
            raise ModelError("is no regular file")
        if file.stat().st_size > tflite.MAX_FILE_BYTES:
            raise ModelError(f"has more than {tflite.MAX_FILE_BYTES} bytes")
        data = file.read_bytes()
        found = tflite.read(data, input_shape=None if frontend is None else frontend.input_shape)
        names = tuple(labels or found.labels or (f"class_{i}" for i in range(found.graph.output_shape[0])))
        detection: DetectionConfig | None
        if frontend is None and labels is None and found.detection is not None:
            frontend, detection = found.frontend, DetectionConfig.from_dict(found.detection)
        else:
            frontend = frontend or found.frontend
            detection = None if frontend is None else _detection(frontend, names)
        provenance = {"imported from": file.name, "sha256": hashlib.sha256(data).hexdigest()}
        model = Model(found.graph, frontend, names, detection, provenance)
        model.check()
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=file) from None
    except KwsError as error:
        what = error.what if error.where is None else f"{error.where}: {error.what}"
        raise ModelError(what, where=file, hint=error.hint) from None
    return model


def _detection(frontend: FrontendConfig, labels: tuple[str, ...]) -> DetectionConfig:
    keywords = keywords_of(labels)
    if not keywords or labels[: len(keywords)] != keywords:
        what = "do not begin with the keywords, before those that begin with '_'"
        raise ModelError(what, where="labels", hint="without a front-end any order will do")
    return DetectionConfig.default(frontend, len(keywords))
