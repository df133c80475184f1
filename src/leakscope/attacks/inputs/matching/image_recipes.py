"""Published attacks as values: each is one function that returns a composed `GradientInversion`."""

from __future__ import annotations

from leakscope.attacks.inputs.matching.inversion import GradientInversion
from leakscope.attacks.labels.counts import LabelCounts
from leakscope.attacks.labels.signs import LabelSigns
from leakscope.attacks.parts.distance.distances import Cosine, Squared, Weighted
from leakscope.attacks.parts.labeling.labeling import Inferred, Joint
from leakscope.attacks.parts.priors.images import Energy, TotalVariation
from leakscope.attacks.parts.priors.prior import Flat
from leakscope.attacks.parts.priors.statistics import BatchNorm
from leakscope.attacks.parts.search.first_order import LBFGS, Adam
from leakscope.attacks.parts.search.together import Together
from leakscope.attacks.parts.spaces import Pixels
from leakscope.attacks.parts.starts import Gaussian, Gray


def dlg(*, evaluations: int = 1000, restarts: int = 1, line_search: bool = True) -> GradientInversion:
    """Zhu et al. 2019 (arXiv:1906.08935): squared distance, joint soft labels, L-BFGS with step 1 and history 100.

    Two changes that the paper's own cases need: a strong-Wolfe line search (without it about a quarter of all seeds
    diverge; `line_search=False` is the original) and a start near the middle of the data's range instead of N(0, 1).
    """
    # The step 1 of the paper is the line search's first trial: that of a full quasi-Newton step.
    search = LBFGS(lr=1.0, evaluations=evaluations, history=100, line_search=line_search)
    return GradientInversion(Squared(), Flat(), Pixels(), Gray(0.02), search, Joint(), restarts)


def idlg(*, evaluations: int = 1000, restarts: int = 1, line_search: bool = True) -> GradientInversion:
    """Zhao et al. 2020 (arXiv:2001.02610): DLG with the label read from the sign of the output layer's gradient."""
    # DLG's search as it is: all that changes is that no label is searched for.
    search = LBFGS(lr=1.0, evaluations=evaluations, history=100, line_search=line_search)
    return GradientInversion(Squared(), Flat(), Pixels(), Gray(0.02), search, Inferred(LabelSigns()), restarts)


def inverting_gradients(
    *, steps: int = 24_000, tv: float = 0.1, depth: float = 3.0, restarts: int = 1
) -> GradientInversion:
    """Geiping et al. 2020 (arXiv:2003.14053): cosine distance, total variation, signed Adam, boxed pixels.

    Step 0.1, falling to a tenth at 3/8, 5/8 and 7/8 of the way. The paper is told the labels; here they are inferred
    when they were not told. Two changes that `benchmarks/reference_cases.py` measures: the last layer weighs `depth`
    times the first (1 is the paper's; 3 brought four photographs 1 to 7 dB closer at 400 steps, as the late layers'
    gradients are smoother functions of the input), and the start is near the middle of the range, not N(0, 1).
    """
    search = Adam(lr=0.1, steps=steps, signed=True)
    # Equal weights change nothing: then the plain cosine, as the paper has it.
    distance = Cosine() if depth == 1 else Weighted(Cosine(), first=1.0, last=depth)
    labeling = Inferred(LabelCounts())
    return GradientInversion(distance, tv * TotalVariation(), Pixels(boxed=True), Gray(), search, labeling, restarts)


def grad_inversion(*, steps: int = 20_000, restarts: int = 1) -> GradientInversion:
    """Yin et al. 2021 (arXiv:2104.07586): squared distance, total variation 1e-4, l2 1e-6, batch norm 0.1.

    Adam with step 0.1; several restarts pull each other together with the paper's weight 0.01. For models with batch
    normalization; refuses others.
    """
    prior = 1e-4 * TotalVariation() + 1e-6 * Energy() + 0.1 * BatchNorm()
    # Restarts that pull each other have to run side by side, which L-BFGS does not.
    search = Together(Adam(lr=0.1, steps=steps), weight=0.01)
    return GradientInversion(
        Squared(), prior, Pixels(boxed=True), Gaussian(), search, Inferred(LabelCounts()), restarts
    )
