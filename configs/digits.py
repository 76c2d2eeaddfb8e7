"""scikit-learn's digits, 8x8: the whole line in a minute or two on two CPU cores.

python -m ddm_embed.main --config configs/digits.py
"""

from ddm_embed import arms
from ddm_embed import config as config_lib


def get_config(arg=""):
    """Takes `arm=NAME`, one of those in docs/methods.md,
    `input=x0|xt|view|none` in place of the arm's and `steps=N`, as in configs/digits.py:arm=vdrl,steps=500."""
    arg = config_lib.parse_arg(arg, arm="ddm", input="", steps=600)
    c = config_lib.default()
    c.name = "digits"
    c.data.name = "digits"
    c.data.augment = "crop"
    c.model.variant = "Ti/4"
    c.model.depth = 3
    c.model.encoder_depth = 2
    c.embedding.dim = 128
    c.optimizer.learning_rate = 2e-3
    c.optimizer.ema_decay = 0.995
    c.train.steps = arg["steps"]
    c.train.checkpoint_every = 1000
    c.train.picture_every = 1000
    arms.apply(arg["arm"], c)  # what the method needs comes last
    c.embedding.input = arg["input"] or c.embedding.input
    return c
