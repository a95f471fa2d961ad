# SPDX-License-Identifier: Apache-2.0
"""The C runtime as optional extensions: without a compiler the install goes on, and NumPy computes the same bits."""

from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("deploy/c")
FRONTEND = {str(path) for path in SOURCES.glob("kws_frontend*.c")}
NETWORK = {str(path) for path in SOURCES.glob("*.c")} - FRONTEND


def extension(name: str, sources: set[str]) -> Extension:
    return Extension(
        name,
        sources=sorted(sources),
        depends=[__file__, *sorted(map(str, SOURCES.glob("*.[ch]")))],
        define_macros=[("Py_LIMITED_API", "0x030B0000")],
        # behind CFLAGS of the environment: not optimized, the x86 kernels take more stack than a process has
        extra_compile_args=["-O3"],
        py_limited_api=True,
        optional=True,
    )


setup(
    ext_modules=[extension("deploy._native", NETWORK), extension("features._native", FRONTEND)],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
