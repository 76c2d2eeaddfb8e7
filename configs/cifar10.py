"""CIFAR-10 from TFDS, for one GPU: width 384, 64 tokens, 8 encoder and 8 denoiser layers, 150 epochs.

python -m ddm_embed.main --config configs/cifar10.py --config.data.data_dir=DIR
"""

from ddm_embed import arms
from ddm_embed import config as config_lib


def get_config(arg=""):
    """Takes `arm=NAME`, one of those in docs/methods.md,
    `input=x0|xt|view|none` in place of the arm's, `variant=` and `steps=N`, as in
    configs/cifar10.py:arm=vdrl,variant=S/2. Arms that live by their views get those of SimCLR."""
    arg = config_lib.parse_arg(arg, arm="ddm-contrast", input="", variant="S/4", steps=14_600)
    c = config_lib.default()
    c.name = "cifar10"
    c.data.name = "tfds:cifar10"
    c.model.variant = arg["variant"]
    c.model.depth = 8
    c.optimizer.learning_rate = 1e-3
    c.optimizer.warmup_steps = 1000
    c.optimizer.ema_decay = 0.9995
    c.train.steps = arg["steps"]
    c.train.batch_size = 512
    c.train.checkpoint_every = 2000
    c.train.picture_every = 6000
    arms.apply(arg["arm"], c)  # what the method needs comes last
    c.data.augment = "crop+flip" if c.data.augment == "none" else "simclr"
    c.embedding.input = arg["input"] or c.embedding.input
    return c
