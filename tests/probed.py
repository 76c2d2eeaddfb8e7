"""Made-up run directories as the probe leaves them, for what reads its results."""

from itertools import product

import numpy as np

from ddm_embed.results import BASELINE_HEADS, BASELINES, baseline_key, figures, labelled, write

TIMES = [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
FEATURES = ["z", "encoder_1", "encoder_2", "encoder_3", "denoiser_1", "denoiser_2", "denoiser_3"]
NAMES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
PROTOCOLS = {"ridge": 0.0, "knn": -0.015, "logistic": 0.006, "ddae": 0.002, "fewshot_5": -0.21}
TRAJECTORY = {f"trajectory_{name}": 0.003 * place for place, name in enumerate(("single", "mean", "gru"))}


def make_results(name="digits_vdrl", seed=0, accuracy=0.87, dataset="fashion_mnist", classes=None, **changes):
    """Results of a probe: a hump over t for each feature, z highest; `accuracy` is about what the main protocol has.

    changes: `protocols` to keep, `config_hash`, `commit`, and fields of the protocol such as training_images.
    """
    rng = np.random.default_rng([seed, *name.encode()])
    classes = NAMES if classes is None else classes
    kept = {p: (PROTOCOLS | TRAJECTORY)[p] for p in changes.pop("protocols", PROTOCOLS)}
    versions = {"jax": "0.10.2", "flax": "0.12.1", "ddm_embed": "0.1.0"}
    manifest = {
        "run": name, "config_hash": changes.pop("config_hash", name.encode().hex().ljust(64, "0")),
        "probe_hash": "ab" * 32, "dirty": changes.pop("dirty", False),
        "commit": changes.pop("commit", "7799bd761d5ffd6838d79748a5a73992ece09b54"),
        "seeds": {"train": seed, "probe": 0}, "versions": versions, "python": "3.11.9",
        "device": changes.pop("device", "cpu x 1"), "dataset": dataset, "created": "2026-11-21T18:00:00Z",
    }  # fmt: skip
    step = changes.pop("checkpoint_step", 2000)
    profile, protocols = [], {}
    for protocol, shift in kept.items():
        points = []
        joint = protocol in TRAJECTORY and protocol != "trajectory_single"  # of several levels at once
        for place, feature in enumerate(("z@5", "z@10") if joint else FEATURES):
            peak, height = 0.18 + 0.05 * place, accuracy + shift - 0.012 * place
            for t in (None,) if joint else TIMES:
                value = height + rng.normal(0, 0.003)
                value -= 0 if t is None else 0.55 * (t - peak) ** 2 + 0.02 * (t == 0)
                hyper = None if protocol == "knn" else 0.1
                points.append(
                    {
                        "protocol": protocol,
                        "feature": feature,
                        "t": t,
                        "hyper": hyper,
                        "validation_accuracy": float(value),
                    }
                )
        profile += points
        selected = max(points, key=lambda point: point["validation_accuracy"])
        draws = (accuracy + shift + rng.normal(0, 0.004) + rng.normal(0, 0.001, 5)).tolist()
        protocols[protocol] = {
            "settings": {"head": protocol, "solver": {"name": "exact"}}
            | ({"feature": "z"} if protocol in TRAJECTORY else {})
            | ({"neighbours": 20} if protocol == "knn" else {}),
            "hyper": None if protocol == "knn" else "strength",
            "selected": {k: selected[k] for k in ("feature", "t", "hyper", "validation_accuracy")},
            **figures(draws),
        }  # fmt: skip
    baselines = {}
    for head, baseline in product(BASELINE_HEADS, BASELINES):
        found = 0.81 + 0.01 * BASELINES.index(baseline) - 0.02 * (head == "knn")
        chosen = {"feature": baseline, "t": None, "hyper": 1.0, "validation_accuracy": found + 0.004}
        baselines[baseline_key(baseline, head)] = found, chosen
    counts = 1000 if len(classes) <= 40 else 20
    confusion = np.diag(np.full(len(classes), round(counts * accuracy)))
    for row in range(len(classes)):
        for column in rng.integers(0, len(classes), counts - round(counts * accuracy)):
            confusion[row, (row + 1 + 2 * (column % 4) % (len(classes) - 1)) % len(classes)] += 1
    definition = {
        "selection": "highest accuracy on held-out training images", "selection_fit_images": 48000,
        "selection_validation_images": 12000, "training_images": 60000, "test_images": 10000,
        "classes": len(classes), "noise_draws": 5, "parameters": "EMA", "times": TIMES,
    }  # fmt: skip
    return {
        "dataset": dataset, "name": "linear", "checkpoint_step": step, "train_flops": 1.5e9 * step,
        "seeds": {"train": seed, "probe": 0},
        "classes": list(classes),
        **labelled(definition | changes, protocols, profile, baselines, confusion.tolist()),
        "measures": make_measures(rng),
        "warnings": ["class Shirt has 12 images in the held-out part"],
        "timing": {"features_s": 41.2, "heads_s": 12.9, "features_gib": 0.81, "kept": "device"},
        "manifest": manifest,
    }  # fmt: skip


def joint_results(**options):
    """Those of a probe whose main protocol chose z at three levels side by side."""
    results = make_results(**options)
    point = {"feature": "z@levels", "t": None, "levels": [0.0, 0.3, 0.9], "hyper": 0.1, "validation_accuracy": 0.97}
    results["profile"].append({"protocol": "ridge"} | point)
    results["selected"] = results["protocols"]["ridge"]["selected"] = point
    return results


def make_measures(rng):
    profile = [
        {"feature": feature, "t": t, "rankme": 60 - 6 * i - 40 * t + 20 * t * (1 - t),
         "alignment": 0.1 + 0.9 * t + 0.03 * i, "uniformity": -3.4 + 2.1 * t + 0.1 * i,
         "retrieval_map": 0.62 - 0.4 * t**2 - 0.03 * i + rng.normal(0, 0.004)}
        for i, feature in enumerate(FEATURES) for t in TIMES
    ]  # fmt: skip
    keys = [[feature, t] for feature in FEATURES for t in TIMES]
    place = np.array([[FEATURES.index(f) * 0.35, 1.6 * t] for f, t in keys])
    matrix = np.exp(-np.sum((place[:, None] - place[None]) ** 2, -1) / 1.2)
    return {
        "profile": profile,
        "cka": {"keys": keys, "matrix": matrix.round(4).tolist()},
        "memorisation": {"falls_steadily": False, "feature": "z", "peak_t": 0.2},
    }


def make_predictions(results, images=10000):
    """Arrays of predictions.npz that agree with the accuracies: an image's difficulty is shared by all runs."""
    rng = np.random.default_rng([results["seeds"]["train"], *results["manifest"]["run"].encode()])
    labels = np.random.default_rng(0).integers(0, 10, images)
    hardness = np.random.default_rng(1).permutation(images) / images
    arrays = {}
    scores = {name: entry["test_accuracy"] for name, entry in results["protocols"].items()} | results["baselines"]
    for name, accuracy in scores.items():
        order = np.argsort(hardness + rng.normal(0, 0.05, images))
        right = np.zeros((1, images), bool)
        right[0, order[: round(accuracy * images)]] = True
        arrays[name] = np.where(right, labels, (labels + 1) % 10).astype(np.int32)
        arrays[f"{name}/right"] = right
    return arrays


def write_run(folder, results, predictions=True, probe="linear", images=10000):
    """Writes them as W/probe/NAME of a run directory, which is returned."""
    place = folder / "probe" / probe
    place.mkdir(parents=True)
    (place / "results.json").write_text(write(results))
    if predictions:
        np.savez_compressed(place / "predictions.npz", **make_predictions(results, images))
    return folder
