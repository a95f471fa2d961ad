# SPDX-License-Identifier: Apache-2.0
"""Draw the pictures of kws/arithmetic/README.md: ``python docs/arithmetic_pictures.py``, nothing to choose."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from kws.arithmetic.quant import QuantParams, choose_params, quantize
from kws.arithmetic.requantize import multiply_by_quantized_multiplier, quantize_multiplier

FOLDER = Path(__file__).resolve().parent.parent / "kws" / "arithmetic" / "pictures"
INK, BLUE, RED, GREY, PALE = "#222222", "#2b6cb0", "#c53030", "#a0a0a0", "#dbe7f5"


def bare_axes(width: float, height: float) -> Axes:
    axes = plt.figure(figsize=(width, height)).add_axes((0.02, 0.02, 0.96, 0.96))
    axes.axis("off")
    return axes


def save(name: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / name
    plt.savefig(path, dpi=100, facecolor="white", metadata={"Software": None})
    plt.close("all")
    print(f"{path.name}: {path.stat().st_size:,} bytes")


def draw_int8_line() -> None:
    """A real line above, the int8 line below, and where points of the one go on the other."""
    params = choose_params(-1.0, 2.0)
    axes = bare_axes(10, 3.4)
    first, last = params.real_min - 0.55, params.real_max + 0.55
    top, bottom = 1.0, 0.0
    axes.annotate("", (last, top), (first, top), arrowprops={"arrowstyle": "->", "color": INK})
    axes.plot([params.real_min, params.real_max], [bottom, bottom], color=INK, lw=1.2)
    for q in range(params.qmin, params.qmax + 1, 4):
        real = params.scale * (q - params.zero_point)
        axes.plot([real, real], [bottom - 0.02, bottom + 0.02], color=GREY, lw=0.8)
    for real in (-1.4, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.4):
        q = int(quantize([real], params)[0])
        saturated = not params.real_min - params.scale <= real <= params.real_max + params.scale
        color = RED if saturated else BLUE
        end = params.scale * (q - params.zero_point)
        axes.annotate("", (end, bottom + 0.03), (real, top - 0.02), arrowprops={"arrowstyle": "->", "color": color})
        axes.plot(real, top, "o", color=color, ms=4)
        axes.text(real, top + 0.07, f"{real:g}", ha="center", color=color, fontsize=11)
        if not saturated:
            axes.text(end, bottom - 0.13, f"{q}", ha="center", color=color, fontsize=11)
    axes.text(first, top + 0.22, "real r", fontsize=12, color=INK)
    axes.text(first, bottom - 0.03, "int8 q", fontsize=12, color=INK)
    axes.text(0.0, bottom - 0.27, f"Z = {params.zero_point} is exactly 0.0", ha="center", fontsize=11, color=BLUE)
    axes.text(params.real_max, bottom - 0.27, "what lies outside saturates", ha="center", fontsize=11, color=RED)
    axes.text(0.5, top + 0.22, f"S = {params.scale:.7f} = 3 / 255", ha="center", fontsize=12, color=INK)
    axes.set_xlim(first - 0.05, last + 0.05)
    axes.set_ylim(-0.34, 1.36)
    save("int8_line.png")


def draw_uint3_staircase() -> None:
    """The real line on the eight integers of uint3: a step each, ties to the even q, the rest to the ends."""
    params = QuantParams(0.5, 3, bits=3, signed=False)
    axes = bare_axes(10, 4.2)
    q_of = {q: params.scale * (q - params.zero_point) for q in range(8)}
    left, right = -2.35, 2.85
    for q, real in q_of.items():
        low, high = real - params.scale / 2, real + params.scale / 2
        low, high = (left if q == 0 else low), (right if q == 7 else high)
        ends = RED if q in (0, 7) else BLUE
        axes.plot([low, high], [q, q], color=BLUE, lw=3, solid_capstyle="butt")
        if q in (0, 7):
            outside = [left, real - params.scale / 2] if q == 0 else [real + params.scale / 2, right]
            axes.plot(outside, [q, q], color=RED, lw=3, solid_capstyle="butt")
        axes.plot(real, q, "o", color=BLUE, ms=6)
        axes.plot([real, real], [-1, q], color=GREY, lw=0.6, ls=":")
        axes.text(left - 0.1, q, f"{q:03b} = {q}", ha="right", va="center", fontsize=11, color=ends)
        axes.text(real, -1.45, f"{real:g}", ha="center", fontsize=11, color=INK)
    for tie in np.arange(-1.25, 2.0, 0.5):
        q = int(quantize([tie], params)[0])
        axes.plot(tie, q, "s", color=INK, ms=5, mfc="white")
    axes.annotate("", (right + 0.1, -1), (left, -1), arrowprops={"arrowstyle": "->", "color": INK})
    axes.text(right + 0.12, -1.45, "real r", ha="right", fontsize=12, color=INK)
    axes.text(left, 8.0, "q = saturate(round(r / S) + Z),  S = 0.5,  Z = 3", fontsize=12, color=INK)
    axes.text(left, 6.9, "dots: the reals that q can give back", fontsize=11, color=BLUE)
    axes.text(left, 6.2, "squares: ties, each to the even q", fontsize=11, color=INK)
    axes.text(left, 5.5, "red: saturated", fontsize=11, color=RED)
    axes.set_xlim(left - 0.75, right + 0.2)
    axes.set_ylim(-1.8, 8.6)
    save("uint3_line.png")


def draw_fractional_multiply() -> None:
    """The 64 bits of x * M0: what the shift keeps, what it drops, and the half that is added before."""
    x, real = 12983, 0.0119
    multiplier, shift = quantize_multiplier(real)
    m0, n = int(multiplier[0]), -int(shift[0])
    product = x * m0
    single, tflm = (
        int(multiply_by_quantized_multiplier(np.array([x]), multiplier, shift, rule)[0]) for rule in ("single", "tflm")
    )
    axes = bare_axes(13, 4.2)
    point = 31 + n
    for bit in range(64):
        column = 63 - bit
        kept = bit >= point
        face = PALE if kept else "#f4f4f4"
        axes.add_patch(Rectangle((column, 0), 1, 1, fc=face, ec=INK if kept else GREY, lw=0.7))
        ink = BLUE if kept else INK
        axes.text(column + 0.5, 0.5, str(product >> bit & 1), ha="center", va="center", fontsize=10, color=ink)
        if bit % 8 == 7 or bit == 0:
            axes.text(column + 0.5, 1.15, str(bit), ha="center", fontsize=8, color=GREY)
    cut = 64 - point
    axes.plot([cut, cut], [-0.2, 2.4], color=RED, lw=2)
    axes.text(cut + 0.3, 2.15, f"single: cut once, at bit 31 + n = {point}", fontsize=11, color=RED)
    axes.add_patch(Rectangle((cut, 0), 1, 1, fill=False, ec=RED, lw=2))
    half = f"1 is added to the bit in the frame (a half), then these {point} bits go"
    axes.text(cut + 0.3, 1.65, half, fontsize=11, color=RED)
    axes.plot([33, 33], [-0.9, 1.0], color=INK, lw=2, ls="--")
    axes.text(33.3, -0.55, "tflm: cut here first, at bit 31, rounded by the bit to the right;", fontsize=11, color=INK)
    axes.text(33.3, -1.0, f"then the {n} bits to the left go, and round once more", fontsize=11, color=INK)
    axes.text(0, 3.3, f"x = {x},  M = {real} = M0 * 2^-{n},  M0 = {m0}, as Q0.31 {m0 / 2**31:.9f}", fontsize=12)
    axes.text(0, 2.75, f"x * M0 = {product:,} as 64 bits:", fontsize=12, color=INK)
    axes.text(0, -1.2, f"x M = {product / 2**point:.6f}", fontsize=12, color=INK)
    axes.text(0, -1.9, f"kept bits: {product >> point}", fontsize=12, color=BLUE)
    axes.text(12, -1.9, f"single: {single}    tflm: {tflm}", fontsize=12, color=RED)
    axes.set_xlim(-0.3, 64.3)
    axes.set_ylim(-2.2, 3.8)
    save("fractional_multiply.png")


if __name__ == "__main__":
    draw_int8_line()
    draw_uint3_staircase()
    draw_fractional_multiply()
