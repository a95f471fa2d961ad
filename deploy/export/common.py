# SPDX-License-Identifier: Apache-2.0
"""What the exporters of others' formats share: the metadata entry, and names that no tensor has yet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.graph import Graph
from deploy.tflite_rules import METADATA_VERSION
from features.config import FrontendConfig


def metadata(
    graph: Graph, labels: Sequence[str], frontend: FrontendConfig | None, detection: Mapping[str, Any] | None
) -> str:
    """The entry `deploy.tflite_rules.METADATA` of an exported file, JSON: what a reader needs besides the network."""
    source = graph.input_params
    return json.dumps(
        {
            "version": METADATA_VERSION,
            "rounding": graph.rounding,
            "labels": list(labels),
            "frontend": None if frontend is None else frontend.to_dict(),
            "detection": None if detection is None else dict(detection),
            "input": {"scale": source.scale, "zero_point": source.zero_point},
        }
    )


def unique_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, with a number behind it where it is in `taken`, to which the result is added."""
    candidate, count = wanted, 1
    while candidate in taken:
        count += 1
        candidate = f"{wanted}_{count}"
    taken.add(candidate)
    return candidate
