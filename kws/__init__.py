# SPDX-License-Identifier: Apache-2.0
"""Keyword spotting in integers: ``kws.load(path).detect("recording.wav")``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kws.detector import Detector, Event
    from kws.model import Model, load

__all__ = ["Detector", "Event", "Model", "load"]

_HOME = {"Detector": "kws.detector", "Event": "kws.detector", "Model": "kws.model", "load": "kws.model"}


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: an eager import would make a circle of `import features`."""
    if name not in _HOME:
        raise AttributeError(f"module 'kws' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def _refuse_strangers() -> None:
    """ImportError when `features`, `deploy` or `training` would come from elsewhere than from beside this package."""
    here = Path(__file__).resolve().parent.parent
    for name in ("features", "deploy", "training"):
        module = sys.modules.get(name)
        spec = importlib.util.find_spec(name) if module is None else module.__spec__
        if spec is None:
            continue
        found = spec.origin or next(iter(spec.submodule_search_locations or [name]))  # a file, or a bare folder
        if Path(found).resolve() not in (here / name / "__init__.py", here / name):
            raise ImportError(f"{found} hides the package {name!r} that belongs to kws in {here}: move or rename it")


_refuse_strangers()
