"""Contrasts on CIFAR-10 at a CPU's size: each with the operations of 1,000 steps of 128 images of `simclr`, width 96,
16 tokens, three encoder layers, three seeds. `simclr_0.2` is at the temperature of `ddm-contrast`.

python -m ddm_embed.study configs/studies/cifar10.py
"""

from ddm_embed import config as config_lib


def get_config(arg=""):
    """Takes `steps=N`, as in configs/studies/cifar10.py:steps=2000."""
    arg = config_lib.parse_arg(arg, steps=1000)
    c = config_lib.study_default()
    c.name = "cifar10"
    c.base = f"cifar10:variant=S/8,steps={arg['steps']}"
    c.arms = ("simclr", "simclr_0.2: arm=simclr objective.temperature=0.2", "ddm-contrast")
    c.equal = "flops"
    c.overrides = (
        "train.batch_size=128 model.width=96 model.heads=3 model.depth=2 model.encoder_depth=3 "
        "optimizer.warmup_steps=100 optimizer.ema_decay=0.99 train.checkpoint_every=1000 train.picture_every=0"
    )
    c.probe_overrides = "training_images=10000 noise_draws=1 times=(0.0,0.5) measures=False"
    return c
