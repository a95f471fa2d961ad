# SPDX-License-Identifier: Apache-2.0
"""Keyword spotting in integers: ``kws.load(path).detect("recording.wav")``."""
