"""All arms on Fashion-MNIST, one epoch each for a CPU: 500 steps of 128 images, width 64, three seeds.

python -m ddm_embed.study configs/studies/fashion_mnist.py
"""

from ddm_embed import config as config_lib


def get_config(arg=""):
    """Takes `steps=N`, as in configs/studies/fashion_mnist.py:steps=1000."""
    arg = config_lib.parse_arg(arg, steps=500)
    c = config_lib.study_default()
    c.name = "fashion_mnist"
    c.base = f"fashion_mnist:steps={arg['steps']}"
    c.arms = (
        "ddm", "ddm-contrast", "drl", "vdrl", "drl-static", "ddae", "ddae-pp", "soda", "ae", "vae", "simclr", "byol",
        "moco", "simsiam", "barlow", "vicreg", "dino", "mae", "supervised", "random",
    )  # fmt: skip
    c.overrides = "train.batch_size=128 model.width=64 model.heads=2"
    c.probe_overrides = "training_images=20000 noise_draws=2"
    return c
