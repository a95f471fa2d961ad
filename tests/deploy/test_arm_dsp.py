# SPDX-License-Identifier: Apache-2.0
"""What deploy/c/kws_arm_dsp.h requantizes with, instruction by instruction, is Requant's arithmetic for every sum.

The emulated boards compare whole networks (`make test-mcu`); here the instructions are read out of the header.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kws.arithmetic.requantize import Requant

HEADER = Path(__file__).parents[2] / "deploy" / "c" / "kws_arm_dsp.h"
MOST = 2**31 - 1  # of an accumulator's magnitude: Graph.check
Int64 = NDArray[np.int64]


def instructions(way: str) -> list[list[str]]:
    """[name, operand ...] of each instruction of kws_fast_single or kws_fast_tflm."""
    function = re.search(rf"kws_fast_{way}\(int32_t acc.*?\n}}", HEADER.read_text(), re.S)
    assert function is not None
    asm = function[0].split("__asm__(")[1].split(': "=&r"')[0]
    text = "".join(re.findall(r'"(.*?)"', asm)).replace("\\t", "").split("\\n")
    return [re.split(r"[ ,]+", line) for line in text]


def execute(program: list[list[str]], acc: Int64, multiplier: int, right: int, odd: int) -> Int64:
    """What the instructions leave in %0; numbers in and out are int32, and int64 wraps as Arm's wider sums do."""
    registers = {"%1": acc, "%2": np.int64(np.uint32(multiplier).view(np.int32)), "%3": right & 255, "%4": odd}
    for name, to, *operands in program:
        if operands[-1].startswith("#"):  # the last operand shifted, with its shift apart
            *operands, shift = operands
            shifted = "asr" in operands
            operands = [word for word in operands if word != "asr"]
        else:
            shifted, shift = False, "#0"
        values = [registers[word] if word.startswith("%") else int(word[1:]) for word in operands]
        if shifted:
            values[-1] = values[-1] >> int(shift[1:])
        match name:
            case "smmul":
                result = values[0] * values[1] >> 32
            case "smmlar":
                with np.errstate(over="ignore"):
                    result = (values[0] * values[1] + (values[2] << 32) + 2**31) >> 32
            case "add":
                result = values[0] + values[1]
                assert np.abs(result).max() <= MOST
            case "asr":
                result = values[0] >> min(values[1], 31)
            case "ssat":
                result = np.clip(values[1], -(2 ** (values[0] - 1)), 2 ** (values[0] - 1) - 1)
        registers[to] = result
    return registers["%0"]


def sums(multiplier: int, shift: int, rng: np.random.Generator) -> Int64:
    """Accumulators: of any size, the smallest and largest, and around every step between two outputs."""
    steps = [round(Fraction(2 * k + 1, 2) * 2 ** (31 - shift) / multiplier) for k in range(-130, 130)]
    around = np.array([step + d for step in steps for d in (-2, -1, 0, 1, 2) if abs(step) < MOST - 2], np.int64)
    wide = rng.integers(-MOST, MOST + 1, 300)
    small = rng.integers(-(2**17), 2**17, 300)
    return np.concatenate([around, wide, small, np.arange(-300, 300), [-MOST, -MOST + 1, MOST - 1, MOST]])


@pytest.mark.parametrize("way", ["single", "tflm"])
@pytest.mark.parametrize("shift", range(-31, -1))
def test_instructions_requantize_as_the_specification_does(way: str, shift: int) -> None:
    rng = np.random.default_rng(-shift)
    program, tflm = instructions(way), int(way == "tflm")
    ties = 0
    for multiplier in (2**30, 2**30 + 1, 3 * 2**29, 2**31 - 1, *rng.integers(2**30, 2**31, 12).tolist()):
        acc = sums(multiplier, shift, rng)
        for zero_point in (-128, 0, 127):
            requant = Requant(np.array([multiplier], np.int32), np.array([shift], np.int32), zero_point, -128, 127, way)
            found = execute(program, acc, multiplier << tflm, 254 + tflm - shift, 2 * zero_point + 1)
            np.testing.assert_array_equal(found, requant.apply(acc, np.int64))
        high = (acc * multiplier + (1 << 30)) >> 31
        ties += int(np.sum((high & ((1 << -shift) - 1) == 1 << (-shift - 1)) & (high < 0)))
    assert ties > (100 if shift > -24 else 0)  # few sums reach the outputs of small scales


@given(
    st.sampled_from(["single", "tflm"]), st.integers(-MOST, MOST), st.integers(2**30, 2**31 - 1), st.integers(-31, -2),
    st.integers(-128, 127),
)  # fmt: skip
def test_any_sum(way: str, acc: int, multiplier: int, shift: int, zero_point: int) -> None:
    tflm = int(way == "tflm")
    requant = Requant(np.array([multiplier], np.int32), np.array([shift], np.int32), zero_point, -128, 127, way)
    found = execute(instructions(way), np.array([acc]), multiplier << tflm, 254 + tflm - shift, 2 * zero_point + 1)
    assert found.tolist() == requant.apply(np.array([acc]), np.int64).tolist()
