"""The sources of leakscope's own modules, parsed and not run."""

from __future__ import annotations

import ast
import functools
import importlib.abc
import importlib.util


@functools.cache
def source(module: str) -> ast.Module:
    """The syntax tree of a module. Of a module in a package, the package is imported; ours hold nothing to run.

    Raises `ImportError` where there is no such source: leakscope is not shipped as bytecode alone.

    >>> ast.get_docstring(source("leakscope.version")) is not None
    True
    """
    found = importlib.util.find_spec(module)
    # By the loader and not by the path, so that it also works from inside a zip file.
    loader = None if found is None else found.loader
    text = loader.get_source(module) if isinstance(loader, importlib.abc.InspectLoader) else None
    if text is None:
        raise ImportError(f"no source of {module}; install leakscope with its .py files")
    return ast.parse(text)
