"""What the makers' data sheets say of a chip."""

import dataclasses
import re

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of accelerator.

    Attributes:
      flops: dense bfloat16 operations a second.
      memory: bytes of main memory (HBM) that a program may have.
      bandwidth: bytes a second between the chip and that memory.
      links: bytes a second that the chip can send to its neighbours, over all of its links together; None without any.
      grid: dimensions of the torus that the links make, of which each has an equal share; 0: any chip to any other.
      ring: chips along a dimension close to a ring if they are a multiple of this many; a line has half a ring's
        bandwidth.
    """

    flops: float
    memory: float
    bandwidth: float
    links: float | None = None
    grid: int = 0
    ring: int = 1


# TPUs: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, "system architecture": peak, HBM bandwidth, and half of the
# bidirectional inter-chip bandwidth; the memory of v5e, v5p and v6e is what libtpu 0.0.42 lets a program have of the
# 16, 96 and 32 GiB. Rings: of a whole pod's 16 chips on v5e and v6e, of cubes of 4 on v4 and v5p. GPUs:
# nvidia.com/en-us/data-center/{a100,l4,h100,h200}, the SXM models; half of NVLink's bidirectional bandwidth.
# Keys begin a JAX device_kind.
CHIPS = {
    "TPU v4": Chip(275e12, 32 * GIB, 1.2e12, 300e9, 3, 4),
    "TPU v5 lite": (V5E := Chip(197e12, 15.75 * GIB, 0.819e12, 400e9 / 2, 2, 16)),
    "TPU v5e": V5E,
    "TPU v5p": (V5P := Chip(459e12, 95.74 * GIB, 2.765e12, 1200e9 / 2, 3, 4)),
    "TPU v5": V5P,
    "TPU v6 lite": (V6E := Chip(918e12, 31.25 * GIB, 1.6e12, 800e9 / 2, 2, 16)),
    "TPU v6e": V6E,
    "NVIDIA A100": Chip(312e12, 80e9, 2.039e12, 600e9 / 2),
    "NVIDIA L4": Chip(121e12, 24e9, 0.3e12),
    "NVIDIA H100": Chip(989e12, 80e9, 3.35e12, 900e9 / 2),
    "NVIDIA H200": Chip(989e12, 141e9, 4.8e12, 900e9 / 2),
}


def find(device_kind: str) -> tuple[str, Chip] | None:
    """(the name in `CHIPS`, the chip) of a JAX device_kind, or None if it has no data sheet here."""
    for name, chip in CHIPS.items():
        if re.match(rf"{name}\b", device_kind):
            return name, chip
    return None
