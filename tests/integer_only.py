# SPDX-License-Identifier: Apache-2.0
"""An array that refuses floats: what runs on it computes in integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np


class FloatUsedError(Exception):
    """A float operand or result appeared."""


def _refuse_floats(values: Any) -> None:
    if isinstance(values, float | complex) or (
        isinstance(values, np.ndarray | np.generic) and values.dtype.kind not in "iub"
    ):
        raise FloatUsedError(repr(values)[:80])
    if isinstance(values, tuple | list):
        for value in values:
            _refuse_floats(value)


def _plain(values: Any) -> Any:
    if isinstance(values, IntegerOnly):
        return values.view(np.ndarray)
    if isinstance(values, tuple | list):
        return type(values)(_plain(value) for value in values)
    return values


class IntegerOnly(np.ndarray):
    """An array that raises when it meets a float, and whose results are arrays of its kind."""

    def __array_finalize__(self, source: Any) -> None:
        _refuse_floats(self.view(np.ndarray))  # astype and view end here

    def _checked(self, function: Callable[..., Any], args: Iterable[Any], kwargs: dict[str, Any]) -> Any:
        plain_args, plain_kwargs = _plain(tuple(args)), {name: _plain(value) for name, value in kwargs.items()}
        _refuse_floats(plain_args)
        _refuse_floats(tuple(plain_kwargs.values()))
        result = function(*plain_args, **plain_kwargs)
        _refuse_floats(result)
        return result.view(IntegerOnly) if isinstance(result, np.ndarray) else result

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._checked(getattr(ufunc, method), args, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self._checked(func, args, kwargs)
