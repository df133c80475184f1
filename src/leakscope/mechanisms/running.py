"""How a mechanism runs the model, as far as an adversary has to know: the client's model, its passes, whether it fits.

Somebody else's code, asked with care (`core.asking`): what fails is said in a sentence, and nothing raises half way.
"""

from __future__ import annotations

from leakscope.core.asking import asking
from leakscope.core.errors import NoSuchLayer, UnusableMechanism
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.target import Target
from leakscope.mechanisms.compose import AbstractModelDefense, AbstractProtocol, Defended, protocol_of
from leakscope.mechanisms.declared import asked
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import probe_inputs
from leakscope.targets.looking.probe import probed


def models(mechanism: AbstractMechanism) -> list[AbstractModelDefense]:
    """The defenses that change how the model is run, in the written order."""
    defenses = mechanism.defenses if acts_as(mechanism, Defended) else ()
    return [one for one in defenses if isinstance(one, AbstractModelDefense)]


def as_run(mechanism: AbstractMechanism, target: Target) -> Target:
    """The target as the client ran it, by the public description: with the dropout that it had switched on.

    Raises `UnusableMechanism` where a defense raises, or gives a model with other parameters, or one that does not run.
    """
    # In the written order, as `Defended.release` applies them.
    for defense in models(mechanism):
        with asking(defense, "say how the model is run"):
            target = _same_model(defense, target, defense.apply(target))
    return target


def _same_model(defense: AbstractModelDefense, target: Target, found: object) -> Target:
    """`found`, where it is `target` run in another way. Raises `UnusableMechanism` where not."""
    if not isinstance(found, Target):
        raise UnusableMechanism(f"{defense!r} gives {type(found).__name__} as the model that is run, expected a Target")
    if {n: v.shape for n, v in found.parameters().items()} != {n: v.shape for n, v in target.parameters().items()}:
        raise UnusableMechanism(f"{defense!r} gives a model with other parameters than {target.name} has")
    run = probed(found, probe_inputs(target, 2, key=Key(0).child("as run")), key=Key(0).child("as run"))
    if isinstance(run, Refusal):
        raise UnusableMechanism(f"{defense!r} gives a model that cannot be used: {run.sentence}")
    return found


def passes(mechanism: AbstractMechanism) -> int:
    """How many passes over the model, one after the other, a replay takes; 1 where that is not declared.

    Raises `UnusableMechanism` where the declaration raises, or is no number of passes.
    """
    protocol = protocol_of(mechanism)
    if not isinstance(protocol, AbstractProtocol):
        return 1
    with asking(protocol, "say how many passes it takes"):
        found: object = protocol.passes
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UnusableMechanism(f"{protocol!r} cannot say how many passes it takes: expected a number, got {found!r}")
    return found


def unfit(mechanism: AbstractMechanism, target: Target) -> str | None:
    """Why no client can have run this mechanism on this model, nor an adversary replay it; None where one can."""
    protocol = protocol_of(mechanism)
    if isinstance(protocol, AbstractProtocol):
        given: object
        given, raised = asked(lambda: protocol.unfit(target))
        if raised is not None:
            return f"{protocol!r} {raised}, when it is asked whether a client can run it on this model"
        if given is not None:
            return str(given)
    for one in models(mechanism):
        try:
            with asking(one, "replay how the model is run"):
                target = _same_model(one, target, one.replay(target))
        except (UnusableMechanism, NoSuchLayer) as error:
            return str(error)
    return None
