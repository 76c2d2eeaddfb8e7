"""How an encoder is trained: one method a file, registered here in one line."""

from ml_collections import ConfigDict

from ddm_embed.errors import UserError
from ddm_embed.fields import Field
from ddm_embed.methods import autoencoder, byol, diffusion, mae, simclr, supervised, untrained
from ddm_embed.methods.method import Method

METHODS: dict[str, Method] = {}  # by name, in the order of registration


def register(method: Method) -> None:
    """Makes a method known by its name, its presets as arms and its fields in every config made from now on."""
    METHODS[method.name] = method


register(diffusion.METHOD)
register(autoencoder.AUTOENCODER)
register(autoencoder.VAE)
register(simclr.METHOD)
register(byol.METHOD)
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
