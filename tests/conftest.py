# SPDX-License-Identifier: Apache-2.0
"""What every run of the tests says at its end."""

from __future__ import annotations

import pytest

from deploy import native


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which instruction sets of the native engine this host has: the tests compare every one of them."""
    terminalreporter.write_line(f"native engine, each path compared: {', '.join(native.levels()) or 'not built'}")
