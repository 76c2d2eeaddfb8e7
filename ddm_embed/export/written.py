"""An export: the encoder as a serialised program of jax.export, which runs without this package, its weights and its
documents; on the disk whole or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import export
from jaxtyping import Array, Float, Shaped
from safetensors import numpy as safetensors

from ddm_embed import __version__
from ddm_embed import config as config_lib
from ddm_embed.errors import UserError
from ddm_embed.export.card import Documents, best_level, card, read_measured
from ddm_embed.features import exported
from ddm_embed.features.choice import Choice
from ddm_embed.features.exported import Flat, flat, nested
from ddm_embed.features.run import Run, check_levels
from ddm_embed.runs import files
from ddm_embed.runs.directory import RunDirectory

PLATFORMS = ("cpu", "cuda", "tpu")

# example.py of an export, which runs without this package.
EXAMPLE = r'''"""Embeds images with the program and the weights beside this file; needs jax, safetensors, flatbuffers and numpy.

    python example.py [IMAGES.npy [OUT.npy]]

IMAGES.npy is uint8 [number, height, width, channel], or of sequences any numbers [number, length, channel]; without it
two random ones are embedded.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file

HERE = Path(__file__).parent


def main(images_file: str | None = None, out_file: str | None = None) -> None:
    about = json.loads((HERE / "export.json").read_text())
    height, width, channel = about["image_shape"]
    random = np.random.default_rng(0).integers(0, 256, (2, height, width, channel))
    images = random if images_file is None else np.load(images_file)
    if about["scale"]:  # a sequence is an image of height 1, its channels standardised
        mean, std = (np.array(about["scale"][name]) for name in ("mean", "std"))
        images = (images.reshape(len(images), 1, width, channel) - mean) / std
    try:
        embeddings = embed(images.astype(about["images"]), about["t"])
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        if jax.__version__ == about["jax"]:
            raise
        sys.exit(
            f"{error}\n\nembed.jax_export was written by JAX {about['jax']} and this is {jax.__version__}; JAX "
            "promises to run it by versions released up to six months later, or three weeks earlier"
        )
    print(f"{about['feature']} at t = {about['t']:g}: {embeddings.dtype} {embeddings.shape}")
    if out_file is not None:
        np.save(out_file, embeddings)


def embed(images: np.ndarray, t: float) -> np.ndarray:
    """float32 [number, dim]; to embed often, keep `weights` and `program`."""
    weights = jax.device_put(load_file(HERE / "weights.safetensors"))
    program = jax.jit(export.deserialize(bytearray((HERE / "embed.jax_export").read_bytes())).call)
    return np.asarray(program(weights, images, np.float32(t)))


if __name__ == "__main__":
    main(*sys.argv[1:])
'''  # noqa: E501


def read_documents(workdir: Path) -> Documents:
    """Of a run directory."""
    directory = RunDirectory(workdir)
    return Documents(directory.read_data(), directory.read_versions(), read_measured(workdir))


def choose(run: Run, documents: Documents, feature: str | None, t: float | None) -> Choice:
    """What the program gives: the run's choice, or another feature, at the level where the probe held that one best.

    Raises:
      UserError: there is no such feature, or t is outside [0, 1].
    """
    chosen = run.choice
    if feature not in (None, chosen.feature):
        run.check_feature(feature)
        level, by = best_level(documents.measured, feature) or (chosen.t, "--feature; t as without it")
        chosen = Choice(feature, level, by)
    if t is not None:
        check_levels([t])
        chosen = Choice(chosen.feature, t, f"{chosen.by}; t by --t")
    return chosen


def check_free(out: Path) -> None:
    """Makes the folder above a new export.

    Raises:
      UserError: `out` is on a store, a file, or a folder with something in it.
    """
    if files.is_store(out):
        raise UserError(f"--out {out}: expected a folder of a disk; write it here, and copy it there")
    if out.name in ("", ".."):
        raise UserError(f"--out {out}: expected the name of a new folder, such as --out exports/digits")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "is not empty" if out.is_dir() else "is a file"
        raise UserError(f"--out {out} {what}; name a folder that does not exist yet, or delete this one")
    out.parent.mkdir(parents=True, exist_ok=True)


def write(out: Path, run: Run, choice: Choice, documents: Documents, license_name: str) -> dict[str, int]:
    """Writes the export and gives the bytes of each file.

    The folder appears under its name when all of it is on the disk; what a killed process leaves is a hidden folder
    beside it, .NAME.PID.tmp.
    """
    dim = run.width(choice.feature)
    contents = {
        exported.CONFIG: config_lib.to_json(run.config).encode(),
        exported.WEIGHTS: safetensors.save(exported.flat(run.host_params()), metadata={"format": "np"}),
        exported.PROGRAM: serialised(run, choice.feature),
        exported.CARD: card(run, choice, dim, documents, license_name).encode(),
        exported.EXAMPLE: EXAMPLE.encode(),
    }
    manifest = {
        "image_shape": list(run.image_shape),
        "images": str(run.dtype),
        "feature": choice.feature,
        "t": choice.t,
        "chosen_by": choice.by,
        "dim": dim,
        "features": run.names,
        "levels": list(run.levels),
        "scale": run.scale and run.scale.to_json(),
        "classes": run.classes,
        "step": run.step,
        "fingerprint": run.fingerprint(),
        "written_by": __version__,
        "jax": jax.__version__,
    }
    contents[exported.MANIFEST] = exported.manifest_text(manifest, contents).encode()
    write_folder(out, contents)
    return {name: len(content) for name, content in contents.items()}


def write_folder(out: Path, contents: dict[str, bytes]) -> None:
    """Files by name, as a folder that appears under its name when all of them are on the disk."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        for name, content in contents.items():
            with (temporary / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(out)  # an empty folder gives way
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def serialised(run: Run, feature: str) -> bytes:
    """A program (weights by name, images [batch, height, width, channel], t []) -> float32 [batch, dim].

    Images are of the encoder's own type, the batch is of any size, and one t is for all images. It computes in float32
    on every platform, also where matrix products in it would be rounded to fewer bits.
    """
    weights = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in flat(run.host_params()).items()}
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *run.image_shape), run.dtype)
    with jax.default_matmul_precision("highest"):
        embed = jax.jit(by_name(exact(run), feature))
        exported = export.export(embed, platforms=PLATFORMS)(weights, images, jax.ShapeDtypeStruct((), np.float32))
    return bytes(exported.serialize())


def by_name(
    run: Run, feature: str
) -> Callable[[Flat, Shaped[Array, "batch height width channel"], Float[Array, ""]], Float[Array, "batch dim"]]:
    """The run's program, of parameters under the names that they have in a file."""
    program = run.program(feature)

    def embed(weights, images, t):
        return program(nested(weights), images, t)

    return embed


def exact(run: Run) -> Run:
    """The same encoder, computing in float32 by operations that every platform has."""
    config = config_lib.from_json(config_lib.to_json(run.config), config_lib.default())
    config.model.dtype, config.model.attention, config.model.remat = "float32", "xla", "none"
    return run.replace(config=config)
