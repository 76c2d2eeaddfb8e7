"""How much slower `Embedder.transform` is than the encoder, jitted by hand; the ratio of the two in one run.

python tests/features/speed_transform.py WORKDIR [--images 1000] [--repeats 7]
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np

from ddm_embed import Embedder
from ddm_embed.features.run import open_run


def measure(workdir: Path, number: int, repeats: int) -> dict[str, float]:
    """Seconds, the least of the repeats, which take turns."""
    frozen = open_run(workdir)
    feature, t = frozen.choice.feature, np.float32(frozen.choice.t)
    images = np.random.default_rng(0).integers(0, 256, (number, *frozen.image_shape), np.uint8)
    size = frozen.batch_size()
    raw = jax.jit(frozen.program(feature))
    embedder = Embedder.from_run(workdir)

    def by_hand() -> np.ndarray:
        """All at full batches, the last one as it is: no copy, no padding, nothing to wait for between batches."""
        batches = [raw(frozen.params, images[i : i + size], t) for i in range(0, number, size)]
        return np.concatenate([np.asarray(batch) for batch in batches])

    ways = {"raw": by_hand, "transform": lambda: embedder.transform(images)}
    found = {name: way() for name, way in ways.items()}  # compiles
    assert np.allclose(found["raw"], found["transform"], atol=1e-5)
    seconds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begin)
    least = {name: min(times) for name, times in seconds.items()}
    return least | {"ratio": least["transform"] / least["raw"], "images": number, "batch": size}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.workdir, arguments.images, arguments.repeats)))
