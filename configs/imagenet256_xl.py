"""ImageNet at 256x256, DiT-XL's 28 blocks of width 1152 on 256 tokens of 16x16 pixels, batch 2048, for a TPU pod.

python -m ddm_embed.main --config configs/imagenet256_xl.py --config.data.name=folder:PATH

Predicted by `python -m ddm_embed.preflight --config configs/imagenet256_xl.py --topology v5e:16x16`, not measured: 4.5
GiB a chip, 15,600 to 31,200 images/s on 256 chips of a v5e. Never trained: learning rate and schedule are untried.
"""

from ddm_embed import arms
from ddm_embed import config as config_lib


def get_config(arg=""):
    """Takes `arm=NAME`, one of those in docs/methods.md,
    `input=x0|xt|view|none` in place of the arm's, `variant=` and `steps=N`, as in
    configs/imagenet256_xl.py:arm=vdrl,variant=L/16."""
    arg = config_lib.parse_arg(arg, arm="ddm", input="", variant="XL/16", steps=50_000)
    c = config_lib.default()
    c.name = "imagenet256_xl"
    c.data.name = "folder:imagenet"
    c.data.image_size = 256
    c.data.augment = "flip"
    c.data.threads = 64
    c.model.variant = arg["variant"]
    c.model.encoder_depth = 14  # half the denoiser's: a third of a step's operations
    c.model.remat = "dots"
    c.model.scan = True
    c.embedding.dim = 1024
    c.optimizer.learning_rate = 2e-4
    c.optimizer.warmup_steps = 5000
    c.optimizer.ema_decay = 0.9999
    c.train.steps = arg["steps"]
    c.train.batch_size = 2048
    c.train.checkpoint_every = 2500
    c.train.picture_every = 5000
    c.mesh.fsdp = 16
    arms.apply(arg["arm"], c)  # what the method needs comes last
    c.embedding.input = arg["input"] or c.embedding.input
    if arg["arm"] == "ddm":  # a patch is 768 numbers, noise and velocity fill them all, images do not
        c.diffusion.prediction, c.diffusion.weight = "x0", "min_snr"
    return c
