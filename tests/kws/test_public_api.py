# SPDX-License-Identifier: Apache-2.0
"""What `import kws` offers, lazily, and that it is documented."""

from __future__ import annotations

import inspect
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest

import kws
from kws.detector import Detector, Event
from kws.model import Model, load


def test_public_names_are_those_of_their_modules() -> None:
    assert kws.__all__ == ["Detector", "Event", "Model", "load"]
    assert (kws.Detector, kws.Event, kws.Model, kws.load) == (Detector, Event, Model, load)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'kws' has no attribute 'Detectors'"):
        attrgetter("Detectors")(kws)


def test_importing_kws_loads_nothing_yet() -> None:
    code = "import kws, sys; before = 'numpy' in sys.modules; kws.Event; print(before, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False True\n"


def test_load_and_detect(tone_model_file: Path, tone_model: Model) -> None:
    samples = np.zeros(16000, np.int16)
    assert kws.load(tone_model_file).detect(samples) == tone_model.detect(samples) == []
    assert kws.load(str(tone_model_file)).labels == tone_model.labels


@pytest.mark.parametrize("name", kws.__all__)
def test_public_names_and_their_methods_are_documented(name: str) -> None:
    value = getattr(kws, name)
    members = [getattr(value, m) for m in vars(value) if not m.startswith("_")] if inspect.isclass(value) else []
    for item in (value, *(m for m in members if callable(m))):
        assert inspect.getdoc(item), item
