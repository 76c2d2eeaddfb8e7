"""Training steps compiled for meshes of eight forced CPU devices; prints what they take as JSON. Not a test itself."""

import json
import sys
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import tiny_config

from ddm_embed.parallel.chips import Chip
from ddm_embed.preflight import report
from ddm_embed.preflight.compiled import Machine, estimate

CHIP = Chip(flops=1e12, memory=1e9, bandwidth=1e11, links=1e10)
RUNS = {
    "data": ((8, 1), {}),
    "fsdp": ((1, 8), {}),
    "loops": ((8, 1), {"model.scan": True, "train.accumulate": 2}),
}
rows = {}
for name in sys.argv[1:]:
    (data, fsdp), changes = RUNS[name]
    config = tiny_config(**{"train.batch_size": 64, "model.width": 64} | changes)
    config.mesh.data, config.mesh.fsdp = data, fsdp
    machine = Machine("cpu", jax.devices()[: data * fsdp], CHIP)
    rows[name] = json.loads(report.to_json([estimate(config, (8, 8, 1), machine)]))[0]
print(json.dumps(rows))
