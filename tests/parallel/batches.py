"""One of the processes of a run: prints, in process 0, a digest of each of the first batches. Not a test itself."""

import hashlib
import itertools
import os
import sys
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import tiny_config

from ddm_embed import cli
from ddm_embed.data.sources import open_source
from ddm_embed.parallel import cluster, distributed
from ddm_embed.parallel.mesh import make_mesh
from ddm_embed.train.loop import open_batches

f = cli.new_flags(processes=True)
f(sys.argv)
distributed.start(
    cluster.find("auto", f.coordinator_address, f.num_processes, f.process_id, os.environ, False),
    f.num_processes,
    60,
    60,
)
config = tiny_config()
images = open_source(config).train.images
tensor = 2 if jax.device_count() > 2 else 1
mesh = make_mesh(jax.device_count() // tensor, 1, tensor)
for batch in itertools.islice(open_batches(config, images, mesh, start=77), 10):
    whole = multihost_utils.process_allgather(batch["image"], tiled=True)
    if distributed.is_lead():
        print("batch", hashlib.sha256(np.ascontiguousarray(whole)).hexdigest(), flush=True)
