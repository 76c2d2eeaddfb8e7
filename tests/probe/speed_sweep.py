"""The probe's sweep over all features of a run, beside the same grid by scikit-learn on the same features. Not a test.

python tests/probe/speed_sweep.py WORKDIR [--protocols ridge logistic] [--every 1 20] [--images N]

Prints the time of each and their ratio, and how far their accuracies on the held-out images differ. `--every N` gives
scikit-learn, which is slow, every Nth feature alone, a number for each protocol; its time is then scaled up.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from ddm_embed import config as config_lib
from ddm_embed.data.sources import open_source
from ddm_embed.data.splits import split_fold
from ddm_embed.data.types import read_all
from ddm_embed.features.bank import Key
from ddm_embed.features.run import open_run
from ddm_embed.probe.bench import describe_size, sweep
from ddm_embed.probe.protocols import HEADS


def by_scikit_learn(protocol, fit, labels, held, truth, classes, strengths):
    """Accuracy at every strength: each fitted on its own, as its users would."""
    deviation = fit.std(axis=0)
    scale = np.where(deviation > 1e-6 * deviation.max(), deviation, np.inf)
    mean = fit.mean(axis=0)
    fit, held = (fit - mean) / scale, (held - mean) / scale
    found = []
    for strength in strengths:
        if protocol == "ridge":
            model = Ridge(alpha=strength * len(fit)).fit(fit, np.eye(classes, dtype=fit.dtype)[labels])
            found.append(np.mean(model.predict(held).argmax(axis=1) == truth))
        else:
            model = LogisticRegression(C=1 / (strength * len(fit)), tol=1e-6, max_iter=2000).fit(fit, labels)
            found.append(model.score(held, truth))
    return max(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--protocols", nargs="+", choices=("ridge", "logistic"), default=["ridge"])
    parser.add_argument("--every", type=int, nargs="+", default=[1])
    parser.add_argument("--images", type=int, default=10**9)
    arguments = parser.parse_args()
    run, config = open_run(arguments.workdir), config_lib.probe_default()
    source = open_source(run.config)
    images = read_all(source.train.images, run.config.data.threads)[: arguments.images]
    classes, labels = np.unique(source.train.read_labels()[: len(images)], return_inverse=True)
    begin = time.perf_counter()
    bank = run.read(images, tuple(config.times), 0, run.names, reading_of(config))
    print(f"{describe_size(bank)}, in {time.perf_counter() - begin:.1f} s", flush=True)
    fold = split_fold(labels, len(classes), config.validation_fraction, config.seed)
    for protocol, every in zip(arguments.protocols, arguments.every, strict=True):
        measure(HEADS[protocol](config), bank, fold, run.mesh, every)


def measure(head, bank, fold, mesh, every):
    """Both, on the same features; scikit-learn on every so many of them."""
    begin = time.perf_counter()
    entries = sweep(head, bank, bank.keys, fold, mesh, 0)
    ours = time.perf_counter() - begin
    print(
        f"{head.name}: {len(entries)} features x {len(head.hypers)} strengths, with compiling: {ours:.1f} s", flush=True
    )
    theirs, differences = 0.0, []
    chosen = entries[::every]
    for entry in chosen:
        x = np.asarray(bank.one(Key(entry.feature, entry.t)))
        begin = time.perf_counter()
        fit, held = (x[at] for at in (fold.fit, fold.validation))
        labels, truth = (fold.labels[at] for at in (fold.fit, fold.validation))
        best = by_scikit_learn(head.name, fit, labels, held, truth, fold.classes, head.hypers)
        theirs += time.perf_counter() - begin
        differences.append(best - entry.validation_accuracy)
    theirs *= len(entries) / len(chosen)
    print(f"scikit-learn: {theirs:.1f} s, by {len(chosen)} of the features; ratio {theirs / ours:.1f}")
    print(f"the best accuracy of each feature differs by {np.abs(differences).max():.4f} at most", flush=True)


if __name__ == "__main__":
    main()
