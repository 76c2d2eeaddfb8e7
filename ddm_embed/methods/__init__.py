"""How an encoder is trained: one method a file, registered here in one line."""

from ml_collections import ConfigDict

from ddm_embed.errors import UserError
from ddm_embed.fields import Field
from ddm_embed.methods import (
    autoencoder,
    barlow,
    byol,
    diffusion,
    dino,
    mae,
    moco,
    simclr,
    simsiam,
    supervised,
    untrained,
    vicreg,
)  # fmt: skip
from ddm_embed.methods.method import Method

METHODS: dict[str, Method] = {}  # by name, in the order of registration
GENERAL = ("data.", "model.", "optimizer.", "train.", "mesh.", "probe.")  # rooms of fields that are no method's


def register(method: Method) -> None:
    """Makes a method known by its name, its presets as arms and its fields in every config made from now on.

    One of your own of the same name takes the earlier one's place, as where a config file is run again.

    Raises:
      UserError: the name, an arm or a field is another method's, or a field is none that a method may declare.
    """
    for other in METHODS.values():
        if other.name == method.name:
            if other.card.__module__.startswith(f"{__name__}.") and other.card.__module__ != method.card.__module__:
                raise UserError(f"method {method.name!r} is there already; give yours another name")
            continue
        if taken := sorted(other.presets.keys() & method.presets.keys()):
            raise UserError(
                f"arm {taken[0]!r} of method {method.name!r} is one of {other.name!r}; give it another name"
            )
        for name, field in method.fields.items():
            if other.fields.get(name, field) != field:
                raise UserError(f"field {name!r} of method {method.name!r} is another one of {other.name!r}; rename it")
    for name, field in method.fields.items():
        if not isinstance(field, Field) or name.count(".") != 1 or name.startswith(GENERAL):
            raise UserError(
                f"field {name!r} of method {method.name!r}: expected ROOM.NAME with a Field, where ROOM is none of "
                f"{', '.join(GENERAL)}"
            )
    METHODS[method.name] = method


register(diffusion.METHOD)
register(autoencoder.AUTOENCODER)
register(autoencoder.VAE)
register(simclr.METHOD)
register(byol.METHOD)
register(moco.METHOD)
register(simsiam.METHOD)
register(barlow.METHOD)
register(vicreg.METHOD)
register(dino.METHOD)
register(mae.METHOD)
register(supervised.METHOD)
register(untrained.METHOD)


def all_methods() -> tuple[Method, ...]:
    """In the order of registration."""
    return tuple(METHODS.values())


def of(config: ConfigDict) -> Method:
    """The method of a run.

    Raises:
      UserError: there is none of this name.
    """
    name = config.objective.name
    if name not in METHODS:
        raise UserError(f"config.objective.name={name!r}; use one of {', '.join(METHODS)}")
    return METHODS[name]


def fields() -> dict[str, Field]:
    """The config fields that methods declare; where a field needs nothing else, it needs one of its methods."""
    owners: dict[str, list[str]] = {}
    declared: dict[str, Field] = {}
    for method in all_methods():
        for name, field in method.fields.items():
            owners.setdefault(name, []).append(method.name)
            declared.setdefault(name, field)
    return {
        name: field if field.needs else field._replace(needs=("objective.name", tuple(owners[name])))
        for name, field in declared.items()
    }
