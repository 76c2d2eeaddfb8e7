"""All arms on scikit-learn's digits, five seeds each.

python -m ddm_embed.study configs/studies/digits.py
"""

from ddm_embed import config as config_lib


def get_config(arg=""):
    """Takes `steps=N`, as in configs/studies/digits.py:steps=500."""
    arg = config_lib.parse_arg(arg, steps=600)
    c = config_lib.study_default()
    c.name = "digits"
    c.base = f"digits:steps={arg['steps']}"
    c.arms = (
        "ddm", "ddm-contrast", "drl", "vdrl", "drl-static", "ddae", "ddae-pp", "soda", "ae", "vae", "simclr", "byol",
        "moco", "simsiam", "barlow", "vicreg", "dino", "mae", "supervised", "random",
    )  # fmt: skip
    c.seeds = (0, 1, 2, 3, 4)
    return c
