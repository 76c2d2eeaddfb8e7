"""Embeds images with the program and the weights beside this file; needs jax, safetensors, flatbuffers and numpy.

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
