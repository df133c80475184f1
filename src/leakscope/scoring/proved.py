"""How near to the private item one has to be that was proved: what certificates that are right really reach."""

from __future__ import annotations

import math

MOST, LEAST, SLACK = 60.0, 20.0, 10.0
"""dB of PSNR. Measured of 400 certificates that were right: 100 to 120 dB in float32, 77 dB and more of short local
steps, 64 dB and more in half precision, each above the residual that its tolerance allows. Mixtures of examples that
were proved by mistake have 12 to 16 dB. A tenth is what a certificate may leave open that knows no batch size."""

FRAMES = 1e-2
"""The largest mean absolute error of an utterance that is proved, in MFCC; those that are right have 2e-5 at most, and
a wrong length, a wrong frame or another utterance 0.05 and more."""

FEATURES = 1e-3
"""The largest relative error of a layer's input that is proved. Those that are right have 1e-5 at most; the features of
another example, or a mixture of two, a hundredth and more."""


def least_psnr(tolerance: float) -> float:
    """The PSNR in dB from which on a proved input is the private one: min(60, max(20, -20 log10(tolerance) - 10)).

    tolerance: of the certificate, a relative residual; that of half precision allows more than that of float32.

    >>> least_psnr(1e-4), least_psnr(1e-2), least_psnr(0.1), least_psnr(0.0)
    (60.0, 30.0, 20.0, 60.0)
    """
    if not tolerance > 0:
        return MOST
    return min(MOST, max(LEAST, -20 * math.log10(tolerance) - SLACK))
