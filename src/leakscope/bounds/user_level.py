"""What user-level privacy of a federation is worth: epsilon for who sees the models, and for who sees the updates."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from leakscope.bounds.accounting import epsilon, quietly
from leakscope.core.arguments import count, instance, number
from leakscope.core.errors import BadInput, optional
from leakscope.core.mechanism import Adjacency
from leakscope.mechanisms.compose import Defended, accounting, protocol_of
from leakscope.mechanisms.federated.federation import Federation, Sampling
from leakscope.mechanisms.federated.user_level import NoiseBy
from leakscope.mechanisms.protocols.batch_clipped import BOUNDS_NOTHING, BatchClipped
from leakscope.mechanisms.protocols.fedsgd import FedSGD

if TYPE_CHECKING:
    from dp_accounting import DpEvent


def models_epsilon(federation: Federation, *, clients: int, delta: float) -> float:
    """For who sees the global model after every round, and not who took part in it: the smaller of what is known.

    Adjacency is `CLIENT`: the whole update of one client is replaced by zero, in all rounds. An upper bound, in
    [0, inf]; infinite without `privacy`. Every round sums at most C of a client and noise of z C:

    - Poisson sampling, noise by the server: the Poisson-sampled Gaussian mechanism of z and `fraction`, T times.
    - A fixed number m of N: as if the client were in every round, the Gaussian mechanism of z, T times; or sampled
      without replacement (Wang, Balle & Kasiviswanathan 2019, arXiv:1808.00087), in which a client is exchanged for
      another, up to 2 C apart, so for z / 2.
    - Poisson sampling, noise by the clients: of how many come nothing is sure but the client itself, whose own noise is
      z C / sqrt(m). Nothing is gained by sampling; let the server add the noise, or sample a fixed number.

    Noise by the clients adds up only as long as all of them add theirs. Utilities on examples that were held out of the
    clients' own are not covered: those examples are in no update, and what is printed of them is not noisy.
    clients: N, of the population. delta: in (0, 1 / N), since with probability delta anything may be revealed, so that
    at 1 / N it may be somebody's everything. Raises `BadInput` on another delta, `MissingExtra` without dp-accounting.

    >>> from leakscope import FedAvg, UserLevel
    >>> plain = Federation(FedAvg(1, 0.1), rounds=100, fraction=0.1, sampling=Sampling.POISSON, weighted=False)
    >>> models_epsilon(plain, clients=100, delta=1e-3)
    inf
    >>> import dataclasses
    >>> private = dataclasses.replace(plain, privacy=UserLevel(0.5, 1.0, NoiseBy.SERVER))
    >>> round(models_epsilon(private, clients=100, delta=1e-3), 1)
    4.8
    """
    multiplier = _multiplier(federation, clients, delta)
    if multiplier == 0 or federation.privacy is None:
        return math.inf
    dp = accounting()
    # the sums of all rounds are what is composed; steps, weights and utilities are made of them
    poisson = federation.sampling is Sampling.POISSON
    if poisson and federation.privacy.by is NoiseBy.SERVER:
        once = dp.PoissonSampledDpEvent(federation.fraction, dp.GaussianDpEvent(multiplier))
        return epsilon(dp.SelfComposedDpEvent(once, federation.rounds), delta=delta)
    if poisson:
        return updates_epsilon(federation, clients=clients, delta=delta)
    always = epsilon(dp.SelfComposedDpEvent(dp.GaussianDpEvent(multiplier), federation.rounds), delta=delta)
    present = federation.present(clients)
    # everybody in every round: there is no draw to gain from, nor an event of that name
    if present == clients:
        return always
    half = dp.SampledWithoutReplacementDpEvent(clients, present, dp.GaussianDpEvent(multiplier / 2))
    return min(always, _exchanged(dp.SelfComposedDpEvent(half, federation.rounds), delta))


def updates_epsilon(federation: Federation, *, clients: int, delta: float, rounds: int | None = None) -> float:
    """For who sees what one client sends in `rounds` rounds, None for all of them, and knows that it is this client's.

    Only the noise that the client adds itself counts: of `NoiseBy.SERVER` there is none, and the bound is infinite.
    clients, delta: as in `models_epsilon`. Raises as there.

    >>> from leakscope import FedAvg, UserLevel
    >>> private = Federation(FedAvg(1, 0.1), weighted=False, privacy=UserLevel(clip=0.5, noise_multiplier=1.0))
    >>> round(updates_epsilon(private, clients=100, delta=1e-3, rounds=1), 1), private.present(100)
    (14.1, 10)
    """
    if _multiplier(federation, clients, delta) == 0:
        return math.inf
    turns = federation.rounds if rounds is None else count("rounds", rounds, high=federation.rounds)
    sent = federation.sends(1, clients)
    if isinstance(sent, Defended) and sent.adjacency is not Adjacency.CLIENT:
        # a protocol that hides examples answers for itself alone: here only what hides the client counts
        sent = replace(sent, protocol=FedSGD())
    # the chain itself knows its clip and its noise, whatever protocol stands before them
    return epsilon(sent.event(rounds=turns), delta=delta)


def promising(delta: float, *, clients: int) -> None:
    """Raises `BadInput` unless 0 < delta < 1 / clients: any other promises nothing to one of them.

    >>> promising(1e-3, clients=100)
    """
    clients = count("clients", clients)
    number("delta", delta, low=0, high=1, low_open=True, high_open=True)
    if not delta < 1 / clients:
        raise BadInput(
            f"expected delta < 1 / {clients}, got {delta}: with that probability anything may be revealed, of one of "
            f"{clients} clients for sure; take {0.1 / clients:.1g}"
        )


def _multiplier(federation: Federation, clients: int, delta: float) -> float:
    """z; 0 where nothing is promised. Raises `BadInput` on what makes no promise at all."""
    instance("federation", federation, Federation, "give Federation(..., privacy=UserLevel(...))")
    promising(delta, clients=clients)
    local = protocol_of(federation.step)
    if federation.privacy is None and isinstance(local, BatchClipped):
        raise BadInput(f"no epsilon is computed of BatchClipped: {BOUNDS_NOTHING}")
    return 0.0 if federation.privacy is None else federation.privacy.noise_multiplier


def _exchanged(event: DpEvent, delta: float) -> float:
    """By Renyi divergences under exchange of a client, of which zeroing is a case; infinite where they say nothing."""
    renyi = optional("dp_accounting.rdp", extra="dp", purpose="privacy accounting")
    accountant = renyi.RdpAccountant(neighboring_relation=accounting().NeighboringRelation.REPLACE_ONE)
    try:
        with quietly():
            return float(accountant.compose(event).get_epsilon(delta))
    except OverflowError:
        return math.inf
