"""Labels of a batch from one network of each family, by name: torchvision and timm, random weights, 1000 classes.

    python benchmarks/model_families.py [--quick] [--seed 0] [--model timm:NAME@img_size=64] [--size 64] [--batch 10]

Nothing is downloaded. A line for each network and batch: its last layer, and what `RevealedLabels`, `LabelCounts` and
`RLG` claim of ten tiles of photographs with random labels, one of them twice. Exit code 1 where anything is certified
that is wrong, or where a network that ends in a dense layer is refused. Needs the extra "models".
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

import leakscope as ls
from leakscope.cli.models import architecture
from leakscope.targets.looking.dense_ends import output_layer

CLASSES = 1000
FAMILIES = (
    *("torchvision:resnet18", "torchvision:vgg11", "torchvision:densenet121", "torchvision:efficientnet_b0"),
    *("torchvision:mobilenet_v2", "torchvision:mobilenet_v3_small", "torchvision:shufflenet_v2_x0_5"),
    *("torchvision:mnasnet0_5", "torchvision:regnet_y_400mf", "timm:mobilenetv1_100", "timm:tf_efficientnetv2_b0"),
    *("timm:legacy_xception", "timm:convnext_atto", "timm:vit_tiny_patch16_224@img_size=64"),
)
"""The smallest network of each family of keras.applications, the published study's library, and of newer ones.

Of these NASNet and Inception are left out for their size, and ResNetV2, which ends in a convolution in timm.
"""
QUICK = ("torchvision:resnet18", "timm:mobilenetv1_100")


def secret(size: int, count: int, key: ls.Key) -> ls.Batch:
    """`count` tiles of photographs as (3, size, size), with random labels of which the last repeats the first."""
    tiles = ls.Photographs().draw(count, key=key).reveal().inputs
    labels = torch.randint(CLASSES, (count,), generator=key.child("labels").generator())
    labels[-1] = labels[0]
    return ls.Batch(F.interpolate(tiles, size=(size, size), mode="bilinear").clamp(0, 1), labels)


def judged(attempt: Any, labels: torch.Tensor) -> tuple[str, bool]:
    """What is right about a claim, in a word, and whether something is certified that is wrong."""
    if attempt.claim is None:
        return attempt.outcome.value, False
    found, truth = sorted(attempt.claim.values.tolist()), sorted(labels.tolist())
    more, less = set(found) - set(truth), set(truth) - set(found)
    if attempt.claim.distinct:
        said = "set exact" if not more and not less else f"set +{len(more)} -{len(less)}"
    else:
        said = "counts exact" if found == truth else f"counts wrong, set +{len(more)} -{len(less)}"
    false = attempt.certified and (bool(more) or (not attempt.claim.distinct and found != truth))
    return f"{said}{', proved' if attempt.certified else ''}", false


def lines(name: str, size: int, count: int, batches: int, seed: int) -> Iterator[tuple[str, bool]]:
    """A line for each batch, and whether it is as it must be."""
    target = architecture(name, CLASSES).build(ls.Images(3, size, size), CLASSES, key=ls.Key(seed).child(name))
    layer = output_layer(target)
    yield f"{name}: the last layer is {layer.name}, fed {layer.features} numbers", layer.outputs == CLASSES
    for turn in range(batches):
        key = ls.Key(seed).child(name, turn)
        batch = secret(size, count, key)
        seen = ls.observe(target, batch, ls.FedSGD(), key=key, tell=[ls.BatchSize(count)])
        said, sound = [], True
        for attack in (ls.RevealedLabels(), ls.LabelCounts(), ls.RLG()):
            start = time.process_time()
            attempt = attack.run(seen, key=key)
            what, false = judged(attempt, batch.labels)
            said.append(f"{type(attack).__name__} {what} ({time.process_time() - start:.1f} s)")
            sound = sound and not false and attempt.outcome is not ls.Outcome.REFUSED
        yield f"{name}, batch {turn}: {'; '.join(said)}", sound


def main() -> int:
    """All families, or the models that were named; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small networks and one batch of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", action="append", help="as for `leakscope audit --model`; may be repeated")
    parser.add_argument("--size", type=int, default=64, help="height and width of the pictures")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--batches", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    # Of libraries that speak of what they will do in later versions.
    warnings.simplefilter("ignore", FutureWarning)
    right = True
    for name in asked.model or (QUICK if asked.quick else FAMILIES):
        for line, fine in lines(name, asked.size, asked.batch, 1 if asked.quick else asked.batches, asked.seed):
            print(f"{'ok  ' if fine else 'BAD '} {line}", flush=True)
            right = right and fine
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
