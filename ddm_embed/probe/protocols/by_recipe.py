"""Heads, or whole networks, trained by gradient steps as a published recipe says: ddae, mae, dinov2, mlp, finetune."""

import ast
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from ddm_embed.errors import UserError
from ddm_embed.features.bank import Key
from ddm_embed.heads import linear
from ddm_embed.heads.finetune import finetune
from ddm_embed.heads.gradient import make_fit_predict
from ddm_embed.heads.online import Training, fit_online, keys_of, predict_online
from ddm_embed.heads.recipes import RECIPES, Recipe, changed
from ddm_embed.models.patches import is_sequence
from ddm_embed.probe.bench import Bench, Entry, Head, Judged, as_classes, best, judge, root_key
from ddm_embed.probe.protocols import direct

RATE = "learning_rate"


def recipe_of(name: str, config: ConfigDict, sequences: bool = False) -> Recipe:
    """The preset, or what `config.recipe` makes of it, whose name then ends in an asterisk.

    On sequences, its views are shifts in time alone.

    Raises:
      UserError: `config.recipe` is not of the form "epochs=3,batch_size=64", or names no setting of a recipe.
    """
    overrides = {}
    for part in filter(None, config.recipe.split(";")):
        setting, equals, text = part.partition("=")
        if not equals:
            raise UserError(f"config.recipe={config.recipe!r}: expected setting=value;setting=value, such as epochs=3")
        try:
            overrides[setting.strip()] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            overrides[setting.strip()] = text.strip()
    recipe = changed(RECIPES[name], **overrides)
    return changed(recipe, views="crop") if sequences and recipe.views != "none" else recipe


def recipe_for(name: str, bench: Bench) -> Recipe:
    """The recipe as it suits the images that are judged by."""
    return recipe_of(name, bench.config, is_sequence(bench.images.shape))


def by_recipe(name: str, bench: Bench) -> dict[str, Judged]:
    """The recipe's heads on every feature at every level: on cached features, or on new views in every step."""
    recipe = recipe_for(name, bench)
    if recipe.online:
        return {recipe.name: judge_online(recipe, bench)}
    fit_predict = make_fit_predict(recipe)
    head = Head(recipe.name, RATE, recipe.learning_rates, settings_of(recipe), fit_predict, together=True)
    return {recipe.name: judge(head, bench)}


def judge_online(recipe: Recipe, bench: Bench) -> Judged:
    """All heads of all features trained together in one pass of the recipe; then the chosen one on all images."""
    run, fold, bank = bench.run, bench.fold, bench.bank
    names, times = tuple(run.names), bank.times
    held = jnp.asarray(fold.validation)
    found = fit_online(recipe, training(bench, bench.choosing[fold.fit]), times, names)
    columns = {name: jnp.asarray(bank.columns[name])[:, held] for name in names}
    predicted = predict_online(recipe, found, columns, names)
    right = np.asarray(linear.accuracy(predicted, jnp.asarray(fold.labels)[held]))  # (key, hyper)
    profile = []
    for (name, t), row in zip(keys_of(names, times), right, strict=True):
        i = int(np.argmax(row))
        profile.append(Entry(recipe.name, name, t, recipe.learning_rates[i], float(row[i])))
    chosen = best(profile)
    place = Key(chosen.feature, chosen.t)
    one = (chosen.feature,)
    found = fit_online(recipe, training(bench), (chosen.t,), one, rates=(chosen.hyper,))
    predictions = [
        as_classes(predict_online(recipe, found, {chosen.feature: test[None]}, one)[0, 0])
        for test in bench.test_features(place)
    ]
    return Judged(settings_of(recipe), RATE, profile, chosen, bench.every_draw(predictions))


def fine_tuned(bench: Bench) -> dict[str, Judged]:
    """The network below the feature that ridge regression chose, trained with a linear head from all labels.

    The rate is chosen on held-out training images. Its noise at test is one draw.
    """
    recipe, fold = recipe_for("finetune", bench), bench.fold
    chosen = best([entry for entry in judge(direct.ridge(bench.config), bench).profile if not entry.joint])
    at, held = bench.choosing[fold.fit], bench.choosing[fold.validation]
    predicted = finetune(recipe, training(bench, at), bench.images[held], chosen.feature, chosen.t)
    right = np.mean(predicted == bench.labels[held], axis=1)
    i = int(np.argmax(right))
    entry = Entry(recipe.name, chosen.feature, chosen.t, recipe.learning_rates[i], float(right[i]))
    rates = (recipe.learning_rates[i],)
    final = finetune(recipe, training(bench), bench.test_images, chosen.feature, chosen.t, rates)
    settings = settings_of(recipe) | {"feature and t": "those that ridge regression chose on held-out training images"}
    return {recipe.name: Judged(settings, RATE, [entry], entry, [as_classes(final[0])])}


def training(bench: Bench, positions: Int[np.ndarray, " some"] | None = None, params: Any = None) -> Training:
    """The run's networks and the training images at these positions, all if None; `params` other than the run's."""
    run, at = bench.run, slice(None) if positions is None else positions
    return Training(
        run.features_of, run.params if params is None else params, bench.images[at], bench.labels[at],
        bench.classes, root_key(bench.config.seed), bench.mesh, run.config.data.crop_padding,
        threads=run.config.data.threads,
    )  # fmt: skip


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON gives it back."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(recipe).items()}


def fresh_params(bench: Bench) -> Any:
    """The run's networks as they are initialised, from the probe's seed: what pretraining is compared with."""
    trained = bench.run
    return jax.jit(trained.models.init, out_shardings=jax.tree.map(lambda a: a.sharding, trained.params))(
        jax.random.key(bench.config.seed)
    )
