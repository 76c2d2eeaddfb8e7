"""The protocols: each an exact preset, so that figures under one name may stand in one column.

A protocol is a function in one file of this folder and one line at the end of this one. One from elsewhere calls
`register` or `register_head` itself, for instance in the config file that the probe is given.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

from ml_collections import ConfigDict

from ddm_embed import config as config_lib
from ddm_embed.errors import UserError
from ddm_embed.models.build import POOLINGS
from ddm_embed.probe.bench import Bench, Head, Judged, judge
from ddm_embed.probe.protocols import by_recipe, direct, few_labels, trajectory

Judge = Callable[[Bench], dict[str, Judged]]
Check = Callable[[ConfigDict], None]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """judge: see `register`. check: raises UserError for values of the probe's config that it cannot do with."""

    judge: Judge
    check: Check


PROTOCOLS: dict[str, Protocol] = {}
HEADS: dict[str, Callable[[ConfigDict], Head]] = {}  # of the protocols that are one head


def register(name: str, judge: Judge, check: Check = lambda config: None) -> None:
    """Adds a protocol, or replaces the one of the same name.

    Args:
      name: what `config.protocols` calls it. judge: what it makes of a `Bench`, under the names of the results: mostly
        its own, or several such as `fewshot_5`. check: raises UserError for fields of the probe's config that it cannot
        do with; asked before anything is read, whichever protocols are run.
    """
    PROTOCOLS[name] = Protocol(judge, check)


def register_head(name: str, head: Callable[[ConfigDict], Head], check: Check = lambda config: None) -> None:
    """Adds the protocol that fits one head, of this name, on every feature at every noise level.

    Args:
      head: from the probe's config. (and the rest as `register` has it)
    """
    HEADS[name] = head
    register(name, lambda bench: {name: judge(head(bench.config), bench)}, check)


def check(config: ConfigDict) -> None:
    """Refuses a probe's config that names what there is not, or numbers that no head takes, before anything is read.

    Raises:
      UserError: naming the first field that is wrong.
    """
    names = config_lib.names(config.protocols)
    if not names or any(name not in PROTOCOLS for name in names):
        raise UserError(f"config.protocols={','.join(names)}: use one or more of {', '.join(PROTOCOLS)}")
    pooling = config_lib.names(config.pooling)
    if pooling[:1] != ["mean"] or not set(pooling[1:]) <= {*POOLINGS, "levels"} or len(set(pooling)) < len(pooling):
        known = ", ".join((*POOLINGS, "levels"))
        raise UserError(f"config.pooling={','.join(pooling)}: expected mean, and after it any of {known}")
    for protocol in PROTOCOLS.values():
        protocol.check(config)


register_head("ridge", direct.ridge)
register_head("logistic", direct.logistic, direct.check_logistic)
register_head("knn", direct.knn)
register("ddae", partial(by_recipe.by_recipe, "ddae"), partial(by_recipe.recipe_of, "ddae"))
register("mae", partial(by_recipe.by_recipe, "mae"), partial(by_recipe.recipe_of, "mae"))
register("dinov2", partial(by_recipe.by_recipe, "dinov2"), partial(by_recipe.recipe_of, "dinov2"))
register("mlp", partial(by_recipe.by_recipe, "mlp"), partial(by_recipe.recipe_of, "mlp"))
register("fewshot", few_labels.fewshot, few_labels.check)
register("propagation", few_labels.propagation, few_labels.check)
register("finetune", by_recipe.fine_tuned, partial(by_recipe.recipe_of, "finetune"))
register("semi", few_labels.semi_supervised, few_labels.check)
register("trajectory", trajectory.trajectory, trajectory.check)
