# SPDX-License-Identifier: Apache-2.0
"""The C runtime as an optional extension: without a compiler the install goes on, and NumPy computes the same bits."""

from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("deploy/c")

setup(
    ext_modules=[
        Extension(
            "deploy._native",
            sources=sorted(map(str, SOURCES.glob("*.c"))),
            depends=sorted(map(str, SOURCES.glob("*.h"))),
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
