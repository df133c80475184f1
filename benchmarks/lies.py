"""What the cases of `benchmarks/strange.py` say: numbers and texts that cannot be, and some that nearly can."""

from __future__ import annotations

from typing import Any

import numpy as np

PLAN = """\
title = "t"
trials = 1
seed = 0
batch_size = 1
told = ["BatchSize"]
attacks = ["LabelCounts()"]
mechanisms = ["FedSGD()", "FedSGD() >> Clip(1.0)"]
metrics = []
delta = 1e-5

[budget]
seconds = 2
evaluations = 2

[[scene]]
name = "s"
dataset = "Synthetic((1, 4, 4), classes=3, count=24)"
target = "Linear()"
"""

NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 10**4, 10**6, 10**8, 3 * 10**8, 10**9, 10**12, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, 1e-320,
    float("nan"), float("inf"), True, None, "", "7", [], {}, [[1]], {"a": 1},
)  # fmt: skip
TEXTS = (
    "", " ", "\0", "a", "x" * 5000, "\U0001f600" * 50, "../../etc", "[" * 2000, "(" * 300, "-" * 5000 + "1", "1" * 400,
    "FedSGD()" + " >> Clip(1.0)" * 3000, "FedSGD()" + " >> Sign()" * 90, "('a' * 1000000000,)", "MLP(('a' * 10**9,))",
    "Images(1, 8, 8)" * 2, "None", "...", "1j", "b'x'", "FedAvg(steps=300000000, lr=0.1)",
    "FedAvg(steps=1500, lr=0.1)", "FedAvg(steps=1, lr=1e400)",
    "FedAvg(steps=4, lr=0.1, batch_size=1)", "FedSGD() >> Clip(1e308)", "FedSGD() >> GaussianNoise(nan)", "Frames(26)",
    "FedSGD() >> Prune(keep=1e-300)", "Images(1, 100000, 100000)", "Images(1, -8, 8)", "Images(1, 8.5, 8)",
    "Images('1', 8, 8)", "Images(1, 8, 8, mean='a', std='b')", "Images(1, 2048, 2048)", "Text(1000000000, 8)",
    "Text(5, 100000000)", "BatchSize(100000000)", "BatchSize(-1)", "BatchSize(1.5)", "BatchSize('a')", "BatchSize(3)",
    "TrueLabels((1.5,))", "TrueLabels('ab')", "TrueLabels((-1,))", "TrueLabels((10**9,))", "TrueLabels((999999,))",
    "TrueLabels(())", "TrueLabels(3)", "TrueLabels((3,))", "Lengths((1000000000,))", "Lengths(())", "Lengths('a')",
    "TrueTranscripts(((1, 2), 3))", "TrueTranscripts('ab')", "TrueTranscripts(((5000,),))", "Gallery",
    "BatchNormStatistics((('a', 1),))", "BatchNormStatistics(3)",
    "PublicStatistics((('bn', LayerStatistics((1.0,), ())),))",
    "PublicStatistics((('a', LayerStatistics((1.0,), (-1.0,))),))", "Synthetic((1, 100000, 100000))",
    "Digits(size=20000)",
    "Synthetic((1, 4, 4), classes=3, count=1000000000)", "Synthetic((1, 4, 4), seed=-1)", "MLP((1000000, 1000000))",
    "MLP(())", "MLP((-1,))", "MLP(5)", "Linear()", "LeNet()", "DeepSpeech(hidden=1000000)", "ResNet20()", "Key(-1)",
    "ViT(patch=0)", "ViT(dim=1000003)", "TextEncoder(depth=1000000)", "idlg(evaluations=-1)", "LabelCounts()",
    "Trained(MLP((1000000, 1000000)), 'w.pt')", "Fitted(Linear(), Digits(size=8), epochs=1000000000)", "Sentences()",
    "Imported('os:mkdir', (('path', 'CANARY'),))", "Imported('torch:save', (('obj', 1), ('f', 'CANARY')))",
    "Fitted(Imported('torch:os.mkdir', (('path', 'CANARY'),)), Digits(size=8))", "os:getcwd", "torch.nn:Linear",
    "__import__('os').system('touch CANARY')", "open('CANARY', 'w')", "().__class__.__bases__[0]", "lambda: 0",
    "[open('CANARY', 'w') for _ in (1,)]", "0.1 * TotalVariation()", "10 ** 10 ** 10", "1" + "0" * 400, "PSNR()",
)  # fmt: skip


PLAUSIBLE = {
    "trials": ("2", "1000000000", "3"),
    "seed": ("9223372036854775807", "12"),
    "batch_size": ("[1, 2]", "4", "24", "100000", "1000000000"),
    "told": ('["TrueLabels"]', '["Gallery"]', '["PublicStatistics", "BatchNormStatistics"]', "[]"),
    "attacks": ('["LinearLayer()", "LabelSigns()"]', '["idlg(evaluations=2)"]', '["Auto()"]', "[]"),
    "mechanisms": (
        '["FedAvg(steps=1500, lr=0.1)"]', '["FedAvg(steps=2, lr=1e300)"]', '["FedSGD() >> Sign() >> Prune(keep=0.1)"]',
        '["DPSGD(clip=1.0, noise=1e-300)"]', '["FedSGD() >> GaussianNoise(1e308)"]', '["FedSGD() >> Quantize(bits=1)"]',
        '["FedAvg(steps=9, lr=0.1, batch_size=1, shuffle=True)"]',
    ),
    "metrics": ('["SSIM()"]', '["MSE()", "PSNR()"]'),
    "delta": ("1e-300", "0.999999"),
    "dataset": (
        '"Digits(size=8)"', '"Synthetic((3, 4, 4), classes=1, count=2)"', '"Sentences(count=16)"', '"Digits(size=1)"',
        '"Synthetic((1, 1, 1), classes=1000000, count=9)"', '"Synthetic((1, 4, 4), classes=3, count=40000)"',
    ),
    "target": (
        "\"Imported('torch:os.mkdir', (('path', 'CANARY'),))\"",
        '"MLP((4,))"', '"LeNet()"', '"TextEncoder(dim=8, depth=1, heads=2)"', '"MLP((100000, 900))"',
        '"ResNet20()"',
    ),
}  # fmt: skip
"""What might be meant, by key of a plan: these go further than what is refused at sight."""

WEIGHTS = {
    "1.weight": np.zeros((8, 64)),
    "1.bias": np.zeros(8),
    "4.weight": np.zeros((10, 8)),
    "4.bias": np.zeros(10),
}
"""Tensors by name, as `MLP((8,))` for 1 x 8 x 8 pixels and ten classes has them."""
