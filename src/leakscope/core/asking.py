"""Asking a mechanism to act: somebody else's code, which may raise, or return what is no release.

Whatever goes wrong becomes one error with a sentence that names the mechanism, so that an attack can refuse, or
withhold a proof, instead of failing half way. What a mechanism declares of itself is asked in `mechanisms.declared`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput, MissingExtra, NoSuchLayer, UnusableMechanism, first_line
from leakscope.core.mechanism import AbstractMechanism, AbstractReplayable, AbstractStep
from leakscope.core.release import AbstractRelease, Gradient, Release, same_kind
from leakscope.core.target import Target
from leakscope.numerics.trees import Named


@contextmanager
def asking(mechanism: object, what: str) -> Iterator[None]:
    """Whatever is raised inside becomes `UnusableMechanism`. what: which the mechanism cannot do, in words.

    A sentence that was raised on purpose (`BadInput`) stays as it is. A package or a layer that is missing says so by
    its own kind of error, on which callers act, and passes.

    >>> with asking("Mine()", "replay a batch"):
    ...     {}["step"]
    Traceback (most recent call last):
    leakscope.core.errors.UnusableMechanism: 'Mine()' cannot replay a batch: KeyError: 'step'
    """
    try:
        yield
    except (UnusableMechanism, MissingExtra, NoSuchLayer):
        raise
    except BadInput as error:
        raise UnusableMechanism(str(error)) from error
    # All of it, and not a list of kinds: a stranger's code raises kinds of its own. Ctrl-C is none of them.
    except Exception as error:
        raise UnusableMechanism(f"{mechanism!r} cannot {what}: {first_line(error)}") from error


def gradient_of(mechanism: AbstractStep, release: Release, weights: Named | None = None) -> Gradient:
    """`release` read as a gradient by the mechanism, less what known `weights` add; of the released names and shapes.

    Raises `UnusableMechanism` where the mechanism raises, or returns something else.
    """
    what = "read this release as a gradient"
    with asking(mechanism, what):
        found: object = mechanism.as_gradient(release) if weights is None else mechanism.at_weights(release, weights)
    if not isinstance(found, Gradient):
        raise UnusableMechanism(f"{mechanism!r} cannot {what}: it returns {type(found).__name__}, expected Gradient")
    # Buffers beside an update are no part of a gradient, and may be left out.
    own = release.by_name if weights is None else {n: v for n, v in release.by_name.items() if n in weights}
    _same_shapes(mechanism, what, found, own)
    return found


def unit_of(mechanism: AbstractStep, release: Release, name: str) -> float:
    """How many units of the gradient are one of the release (1 / (lr S) for a change of weights), for one tensor."""
    # as_gradient is linear, so what it makes of 1 is the factor; its absolute value, as a delta's is negative. Of all
    # names, since somebody else's may read several.
    ones = same_kind(release, dict.fromkeys(release.by_name, torch.ones((), dtype=torch.float64)))
    found = abs(float(gradient_of(mechanism, ones).by_name[name]))
    if not math.isfinite(found):
        raise UnusableMechanism(f"{mechanism!r} cannot read this release as a gradient: it makes {found} of ones")
    return found


def replay_of(mechanism: AbstractReplayable, target: Target, batch: Batch, like: Named) -> Release:
    """The replay of `batch`, which has the names and shapes of `like`. Raises `UnusableMechanism` as `gradient_of`."""
    what = "replay a batch"
    with asking(mechanism, what):
        found = mechanism.replay(target, batch)
    if not isinstance(found, AbstractRelease):
        raise UnusableMechanism(f"{mechanism!r} cannot {what}: it returns {type(found).__name__}, expected a release")
    _same_shapes(mechanism, what, found, like)
    return found


def undefended_of(mechanism: AbstractMechanism) -> AbstractMechanism:
    """The same protocol without any defense. Raises `UnusableMechanism` as `gradient_of`."""
    with asking(mechanism, "say what it is without its defenses"):
        found = mechanism.undefended
    if not isinstance(found, AbstractMechanism):
        raise UnusableMechanism(f"{mechanism!r} without its defenses is {found!r}, expected a mechanism")
    return found


def noiseless_of(mechanism: AbstractMechanism) -> AbstractMechanism | None:
    """The same mechanism without its noise, None where it has none. Raises `UnusableMechanism` as `gradient_of`."""
    with asking(mechanism, "say what it is without its noise"):
        found = mechanism.noiseless
    if found is not None and not isinstance(found, AbstractMechanism):
        raise UnusableMechanism(f"{mechanism!r} without its noise is {found!r}, expected a mechanism or None")
    return found


def _same_shapes(mechanism: AbstractMechanism, what: str, found: AbstractRelease, like: Named) -> None:
    # By names and shapes alone, which cost nothing to ask, also of what has no memory behind it.
    for name, value in like.items():
        given = found.by_name.get(name)
        if given is None:
            raise UnusableMechanism(f"{mechanism!r} cannot {what}: it returns nothing under {name!r}")
        if given.shape != value.shape:
            raise UnusableMechanism(
                f"{mechanism!r} cannot {what}: it returns {tuple(given.shape)} under {name!r}, expected "
                f"{tuple(value.shape)}"
            )
        if given.is_meta or not (given.dtype.is_floating_point and given.dtype.itemsize > 1):
            raise UnusableMechanism(
                f"{mechanism!r} cannot {what}: it returns {'no numbers' if given.is_meta else given.dtype} under "
                f"{name!r}, expected real floating point numbers"
            )
