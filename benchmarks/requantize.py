# SPDX-License-Identifier: Apache-2.0
"""How far the integer way from (S1, Z1) to (S2, Z2) is from the way through float32, per rounding rule.

    python benchmarks/requantize.py [--pairs N] [--seed N]

Moves all 256 integers of N random 8-bit domains into N others, once with random scales (M from 2^-13 to 2^5) and once
with powers of two (M = 2^-8 to 2^8), and compares with `requantize_float`: dequantize, then quantize, in float32.
Results that saturate either way are left out. The differences are in steps of the target.
"""

from __future__ import annotations

import click
import numpy as np
from numpy.typing import NDArray

from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.arithmetic.quant import QuantParams
from kws.arithmetic.requantize import requantize, requantize_float


def random_pair(rng: np.random.Generator, power_of_two: bool) -> tuple[QuantParams, QuantParams]:
    """A source and a target domain, signed or unsigned, any zero points."""
    if power_of_two:
        s1, s2 = 2.0 ** rng.integers(-4, 5, 2)
    else:
        s1 = np.exp(rng.uniform(-9, 3))
        s2 = s1 * 2.0 ** rng.uniform(-5, 13)
    domains = []
    for scale in (s1, s2):
        signed = bool(rng.integers(2))
        domains.append(QuantParams(float(np.float32(scale)), int(rng.integers(256)) - 128 * signed, 8, signed))
    return domains[0], domains[1]


def differences(pairs: list[tuple[QuantParams, QuantParams]], rounding: str) -> NDArray[np.int64]:
    """Integer way minus float way, of every value that does not saturate."""
    rows = []
    for source, target in pairs:
        q = np.arange(source.qmin, source.qmax + 1).astype(source.dtype)
        through_float = requantize_float(q, source, target).astype(np.int64)
        inside = (through_float > target.qmin) & (through_float < target.qmax)
        rows.append((requantize(q, source, target, rounding=rounding) - through_float)[inside])
    return np.concatenate(rows)


@click.command()
@click.option("--pairs", default=5000, show_default=True, help="Pairs of domains of each kind.")
@click.option("--seed", default=1, show_default=True)
def main(pairs: int, seed: int) -> None:
    """Print worst and mean difference of the integer way from the float way."""
    click.echo(f"{'scales':<14} {'rule':<10} {'values':>9} {'equal':>10} {'worst':>6} {'mean |d|':>10} {'mean d':>10}")
    for name, power_of_two in (("random", False), ("powers of two", True)):
        rng = np.random.default_rng(seed)
        drawn = [random_pair(rng, power_of_two) for _ in range(pairs)]
        for rounding in ROUNDING_RULES:
            d = differences(drawn, rounding)
            size = np.abs(d)
            click.echo(
                f"{name:<14} {rounding:<10} {d.size:>9,} {np.mean(d == 0):>10.4%} {size.max():>6} "
                f"{size.mean():>10.6f} {d.mean():>+10.6f}"
            )


if __name__ == "__main__":
    main()
