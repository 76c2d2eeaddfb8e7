"""Arms on CIFAR-10, each with the operations that `ddm` takes in some minutes of an H100; one run a GPU.

TFDS_DATA_DIR=DIR python -m ddm_embed.study configs/studies/cifar10_gpu.py:minutes=8
"""

from ddm_embed import config as config_lib

IMAGES_A_SECOND = 16_000  # that ddm trains on at S/4, expected of an H100
BATCH = 512  # of configs/cifar10.py


def get_config(arg=""):
    """Takes `minutes=M` of training a run, as in configs/studies/cifar10_gpu.py:minutes=2."""
    arg = config_lib.parse_arg(arg, minutes=8.0)
    c = config_lib.study_default()
    c.name = f"cifar10_gpu_{arg['minutes']:g}_minutes"
    c.base = f"cifar10:steps={round(60 * arg['minutes'] * IMAGES_A_SECOND / BATCH)}"
    c.arms = (
        "ddm",
        "ddm-contrast",
        "drl",
        "ddae",
        "ddae-pp",
        "soda",
        "ae",
        "simclr",
        "byol",
        "moco",
        "dino",
        "mae",
        "supervised",
        "random",
    )
    c.equal = "flops"
    c.protocols = ("ridge", "knn", "logistic")
    return c
