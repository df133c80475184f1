"""What the page says in words: the meaning of each verdict, the method, the glossary."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from leakscope.ledger.record import Ending, Word


@final
@dataclass(frozen=True)
class Meaning:
    """What a verdict says and, as important, what it does not."""

    means: str
    means_not: str
    next: str


MEANINGS = MappingProxyType(
    {
        Word.LEAKS: Meaning(
            "At least one attack learned more about private examples from what was released than a guess that saw "
            "nothing, by more than the uncertainty of the measurement.",
            "It does not mean that every example leaks, nor that other settings on this page leak. What was measured "
            "is a floor: stronger attacks may learn more.",
            "Look at which groups leak and which defenses held; then audit the defended setting again.",
        ),
        Word.NO_LEAK_FOUND: Meaning(
            "The attacks that ran gain less over a guess that saw nothing than the smallest leak of interest, and the "
            "uncertainty of the measurement is counted in. The same attacks do succeed where no defense is in the way.",
            "It does not mean safe. A stronger attack, a larger budget, an adversary who knows more, other examples "
            "or a trained model may still find a leak. Only a bound such as ε limits attacks that nobody has tried.",
            "Raise the power: more trials, more evaluations, more facts told to the adversary, more attacks.",
        ),
        Word.INCONCLUSIVE: Meaning(
            "The measurement cannot tell. Attacks failed, diverged or could not work even without a defense, or the "
            "intervals are too wide to say on which side of chance the score lies.",
            "It means neither that something leaks nor that nothing does. A broken attack is not a defense.",
            "Read the failures below, repair the setting or give it more trials, and run it again.",
        ),
    }
)

SINGLE = MappingProxyType(
    {
        Word.LEAKS: Meaning(
            "Something private was recovered from one update, and the comparison with the secret confirms it.",
            "It does not say how often that happens, nor what other attacks would find in the same update.",
            "Run an audit of the setting: trials, controls and defenses.",
        ),
        Word.INCONCLUSIVE: Meaning(
            "This one claim is not better than what a guess scores that saw nothing, or not so much better that luck "
            "is ruled out.",
            "It does not mean safe: one update is one trial, and it was attacked in one way.",
            "Try other attacks, tell the adversary more, or audit the setting: trials, controls and defenses.",
        ),
    }
)
"""Of one claim; it can show a leak, never that there is none."""

ENDINGS = MappingProxyType(
    {
        Ending.CLAIMED: "made a claim",
        Ending.REFUSED: "refused: does not apply here",
        Ending.DIVERGED: "diverged",
        Ending.CRASHED: "crashed",
    }
)

METHOD = (
    "Each trial draws a private batch and a target's weights, lets the mechanism release what a client would send, and "
    "hands the attack only the target, that release, the description of the mechanism and the facts listed as told.",
    "Each trial is run beside two controls on the same private batch: undefended, the same attack on the same protocol "
    "without its defenses (could this attack work here at all?), and blind, a guess from public data that saw no "
    "release (what would one score for nothing?).",
    "Claims are paired with private examples by the best assignment, so the order of a claim changes no score; blind "
    "guesses are paired the same way. A score is the mean over private examples; its interval, at 95 %, knows that the "
    "examples of a trial go together, and is exact for shares. A single example has none. A trial's gain is its score "
    "minus that of the blind guess on the same batch; a trial without a claim gains nothing but stays in the count.",
    "A group leaks if an exact attack proves its claim and the score confirms it; or if an example is recovered far "
    "beyond every blind guess; or if, over at least 3 trials, luck alone would look so much like a leak with a "
    "probability of at most 1 % (a mean gain above 3 dB for pictures and speech; right labels above chance); or if "
    "the labels that come with claimed pictures leak and were not told. Errors of speech are read in decibels, "
    "−20 log₁₀ of the error.",
    "No leak is said to be found only if all of this holds: the group does not leak; every trial and every control "
    "ended with a claim; the undefended control leaks by the same rule; the interval of the mean gain ends below the "
    "smallest leak of interest, which the plan states, also where what is worse than a blind guess counts as one; and "
    "no labels are told under other names.",
    "A finding joins all groups of one mechanism in one scene: it leaks if any of them does, where those that count on "
    "luck are judged together (Holm); no leak is found if none does and, for each kind of thing that was claimed, at "
    "least one attack was conclusive.",
    "Everything else is inconclusive: a refusal, a divergence, a crash or a control that does not work is no "
    "all-clear. The page as a whole has the worst word of its findings: leaks, then inconclusive, then no leak found.",
    "ε is what an accountant of differential privacy computes for one release. It bounds every attack, also those that "
    "did not run here.",
)

GLOSSARY = (
    ("attack", "A program that reads a release and asserts something about the private batch."),
    ("blind control", "A guess that sees public data only. What it scores costs no privacy."),
    ("cell", "One run of one attack on one release: the unit that is planned, run once and recorded."),
    ("certificate", "The residual of an exact attack's own equations. When it holds, the claim is right to within "
     "rounding, and the attacker knows that without seeing the secret."),
    ("character error rate", "Insertions, deletions and substitutions of characters per character of the true "
     "transcript; 0 for the truth."),
    ("chance", "What a guess that saw nothing scores."),
    ("claim", "What an attack asserts: private inputs, labels or an attribute."),
    ("diverged", "The search ran away or gave numbers that are not finite; there is no claim."),
    ("ε and δ", "The parameters of differential privacy: a bound on every attack, tried or not. Smaller is more "
     "private; ∞ means that nothing bounds it."),
    ("exact", "Recovered to within rounding of the arithmetic."),
    ("finding", "What is said about one mechanism in one scene, from all attacks that were tried on it."),
    ("frame error", "Mean absolute error of the frames of an utterance in the units of their coefficients (MFCC)."),
    ("gradient evaluation", "One computation of the search's loss and its derivative: the unit of effort."),
    ("group", "All trials of one target, data source, mechanism and attack."),
    ("interval", "The range, at 95 %, in which the mean score plausibly lies."),
    ("mechanism", "The protocol and its defenses: how a private batch becomes what is released. Assumed public."),
    ("PSNR", "Peak signal-to-noise ratio of a picture in decibels, 10 log₁₀(1 / mean squared error) for values in "
     "[0, 1]. Near 10 dB little more than the brightness is shared; above 30 dB differences are hard to see."),
    ("refused", "The attack says beforehand that it does not apply, and which fact or layer it lacks."),
    ("release", "What leaves the client: a gradient, a change of weights, weights."),
    ("undefended control", "The same attack on the same private batch with the defenses taken away."),
)  # fmt: skip
