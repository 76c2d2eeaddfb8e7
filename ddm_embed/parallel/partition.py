"""Parameter path -> PartitionSpec.

Every matrix is split along the axis that holds the model's width, so one condition (fsdp divides the width) covers all.
Vectors are small and lie whole on every device.
"""

import re
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

# First match wins; a path is "encoder/block_0/attention/qkv/kernel".
RULES = (
    (r"(bias|scale|logits)$", P()),
    (r"predictor/", P()),  # as wide as z, not as the model
    (r"(first|conv_in|conv_out|shortcut)/kernel$", P(None, None, None, "fsdp")),  # [height, width, in, out]
    (r"(patches|time/in|code_in|mlp_out)/kernel$", P(None, "fsdp")),  # [pixels, frequencies, z or hidden; width]
    (r"kernel$", P("fsdp", None)),  # [width, any]
)


def partition(params: Any) -> Any:
    """A tree of PartitionSpec like `params`, whose leaves may be arrays or shapes.

    Raises:
      ValueError: no rule matches a parameter; names it.
    """

    def rule(path: tuple, leaf: Any) -> P:
        name = "/".join(str(part.key) for part in path)
        for pattern, spec in RULES:
            if re.search(pattern, name):
                return spec
        raise ValueError(f"no partition rule matches the parameter {name} {leaf.shape}")

    return jax.tree_util.tree_map_with_path(rule, params)
