"""Few labels a class: fewshot (a head on them), propagation (over a graph of all images) and semi (fine-tuning).

Each draw takes the labels of so many training images of each class. Choices see these labels and no others: feature, t
and strength are those by which the shots, each left out in turn, are told best.
"""

from collections import Counter

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from ddm_embed.features.bank import GIB, Key
from ddm_embed.features.choice import USUAL, usual_feature
from ddm_embed.heads import fewshot as heads
from ddm_embed.heads.finetune import finetune
from ddm_embed.heads.propagation import propagate_predict
from ddm_embed.parallel import distributed
from ddm_embed.probe.bench import Bench, Entry, Judged, Predicted, as_classes, check_numbers
from ddm_embed.probe.protocols.by_recipe import RATE, fresh_params, recipe_for, settings_of, training

NEIGHBOURS, ALPHA = 50, 0.99  # of label propagation, Mittal et al.'s
USUAL_STRENGTH = 0.1  # of ridge, where one label a class leaves nothing to choose by
STACK = 2 * GIB


def check(config: ConfigDict) -> None:
    check_numbers(config, "shots", whole=True)


def shots(bench: Bench, per_class: int, draws: int) -> tuple[Int[np.ndarray, "draw shot"], heads.Selection, list[Key]]:
    """The draws, as positions in the bench's sample; what each chose; and the keys that choices count by."""
    labels = bench.fold.labels
    drawn = heads.draw_shots(labels, bench.classes, per_class, draws, bench.config.seed)
    keys, stacks = [], []
    for group, x in bench.means.stacks(bench.means.keys, bench.mesh, STACK):
        keys += group
        stacks.append(x[: len(group)])
    strengths = jnp.asarray(bench.config.strengths, jnp.float32)
    fallback = None
    if per_class == 1:
        usual = usual_feature(bench.run.models)
        key = min((key for key in keys if key.name == usual), key=lambda key: abs(key.t - USUAL))
        fallback = keys.index(key), int(jnp.argmin(jnp.abs(jnp.log(strengths / USUAL_STRENGTH))))
    return drawn, heads.select(stacks, jnp.asarray(labels), drawn, strengths, bench.classes, fallback), keys


def fewshot(bench: Bench) -> dict[str, Judged]:
    """`fewshot_N`: ridge regression on N labels a class, for every N of `config.shots`, over `config.shot_draws` draws.

    With one label a class nothing is chosen: it is what an unprobed run is read by, z at the level nearest to 0.2.
    """
    judged = {}
    for per_class in bench.config.shots:
        drawn, chosen, keys = shots(bench, per_class, bench.config.shot_draws)
        labels, predictions = jnp.asarray(bench.fold.labels), []
        cache = {}
        for draw in range(len(drawn)):
            key = keys[chosen.key[draw]]
            if key not in cache:
                cache[key] = bench.bank.one(key), bench.test_features(key)[0]
            strength = jnp.float32(bench.config.strengths[chosen.strength[draw]])
            x, test = cache[key]
            predictions.append(as_classes(heads.predict(x, test, labels, drawn[draw], strength, bench.classes)))
            distributed.progress()
        settings = {"head": "ridge regression", "strengths": list(bench.config.strengths), "draws": len(drawn)}
        judged |= {f"fewshot_{per_class}": _judged(f"fewshot_{per_class}", settings, chosen, keys, bench, predictions)}
    return judged


def propagation(bench: Bench) -> dict[str, Judged]:
    """`propagation_N`: N labels a class spread over the kNN graph of labelled, unlabelled and test embeddings.

    Label propagation as in the semi-supervised experiments of Mittal et al. 2023, arXiv 2105.14257: k = 50, alpha =
    0.99. The test images are part of the graph, their labels are not.
    """
    judged = {}
    for per_class in bench.config.shots:
        drawn, chosen, keys = shots(bench, per_class, bench.config.shot_draws)
        predictions, cache = [], {}
        for draw, positions in enumerate(drawn):
            key = keys[chosen.key[draw]]
            if key not in cache:
                cache[key] = bench.bank.one(key), bench.test_features(key)[0]
            x, test = cache[key]
            rest = np.setdiff1d(np.arange(len(x)), positions)
            spread = propagate_predict(
                x[positions], jnp.asarray(bench.fold.labels[positions]), x[rest], test, bench.classes,
                neighbours=NEIGHBOURS, alpha=ALPHA,
            )  # fmt: skip
            predictions.append(as_classes(spread))
            distributed.progress()
        settings = {"head": "label propagation", "neighbours": NEIGHBOURS, "alpha": ALPHA, "draws": len(drawn)}
        settings["unlabelled images"] = len(bench.choosing) - drawn.shape[1]
        name = f"propagation_{per_class}"
        judged |= {name: _judged(name, settings, chosen, keys, bench, predictions)}
    return judged


def semi_supervised(bench: Bench) -> dict[str, Judged]:
    """`semi_N` and `scratch_N`: the network fine-tuned on N labels a class, from its pretrained parameters and from
    fresh ones, over `config.semi_draws` draws.

    No rate is chosen: it is the middle one of the recipe's. Feature and t are those that the shots choose among the
    pretrained network's frozen features, for the fresh one too: `scratch` is not at its own best layer. The noise at
    test is one draw. Pretraining saw the other images without labels; no pseudo-labels or consistency are used.
    """
    judged, recipe = {}, recipe_for("finetune", bench)
    rate = sorted(recipe.learning_rates)[len(recipe.learning_rates) // 2]
    starts = {"semi": bench.run.params, "scratch": fresh_params(bench)}
    for per_class in bench.config.shots:
        drawn, chosen, keys = shots(bench, per_class, bench.config.semi_draws)
        for name, params in starts.items():
            predictions = []
            for draw, positions in enumerate(drawn):
                key = keys[chosen.key[draw]]
                given = training(bench, bench.choosing[positions], params)
                predictions.append(as_classes(finetune(recipe, given, bench.test_images, *key, (rate,))[0]))
                distributed.progress()
            name += f"_{per_class}" + ("*" if recipe.name.endswith("*") else "")
            settings = settings_of(recipe) | {"rate": rate, "draws": len(drawn), "start": name.split("_")[0]}
            found = _judged(name, settings, chosen, keys, bench, predictions)
            judged[name] = found._replace(hyper=RATE, selected=found.selected._replace(hyper=rate))
    return judged


def _judged(
    name: str, settings: dict, chosen: heads.Selection, keys: list[Key], bench: Bench, predictions: list[Predicted]
) -> Judged:
    """`selected` is what most draws chose. Its validation accuracy is that of left-out shots, the mean over draws of
    the highest of all features and strengths: what it was chosen by, and so higher than unseen images give."""
    (key, strength), _ = Counter(zip(chosen.key.tolist(), chosen.strength.tolist(), strict=True)).most_common(1)[0]
    left_out: Float[np.ndarray, " draw"] = chosen.chosen_by
    accuracy = None if np.isnan(left_out).any() else float(left_out.mean())
    entry = Entry(name, keys[key].name, keys[key].t, bench.config.strengths[strength], accuracy)
    by = "leaving out one of the shots; the held-out accuracy is the highest of all tried, so it flatters"
    if accuracy is None:
        by = "nobody: of one label a class none can be left out, so it is the default of a run that was not probed"
    return Judged({"feature chosen by": by} | settings, "strength", [], entry, predictions)
