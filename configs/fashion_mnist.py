"""Fashion-MNIST from TFDS, sized for a CPU: width 192, 16 tokens, 2 encoder and 3 denoiser layers.

python -m ddm_embed.main --config configs/fashion_mnist.py --config.data.data_dir=DIR

Measured with seed 0 on two CPU cores, some ten minutes: test accuracy 0.8127 by ridge; pixels 0.8124.
"""

from ddm_embed import arms
from ddm_embed import config as config_lib


def get_config(arg=""):
    """Takes `arm=NAME`, one of those in docs/methods.md,
    `input=x0|xt|view|none` in place of the arm's and `steps=N`, as in configs/fashion_mnist.py:arm=vdrl,steps=500."""
    arg = config_lib.parse_arg(arg, arm="ddm", input="", steps=2000)
    c = config_lib.default()
    c.name = "fashion_mnist"
    c.data.name = "tfds:fashion_mnist"
    c.data.augment = "crop+flip"
    c.data.crop_padding = 2
    c.model.variant = "Ti/7"
    c.model.depth = 3
    c.model.encoder_depth = 2
    c.embedding.dim = 128
    c.optimizer.learning_rate = 2e-3
    c.train.steps = arg["steps"]
    c.train.checkpoint_every = 1000
    c.train.picture_every = 2000
    arms.apply(arg["arm"], c)  # what the method needs comes last
    c.embedding.input = arg["input"] or c.embedding.input
    return c
