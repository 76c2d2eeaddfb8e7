"""What each field of a config may be, as far as the field alone decides."""

from ddm_embed.data.augment import AUGMENTATIONS
from ddm_embed.diffusion.prediction import PREDICTIONS
from ddm_embed.diffusion.process import PROCESSES
from ddm_embed.diffusion.timesteps import LAWS
from ddm_embed.methods.diffusion import INPUTS
from ddm_embed.methods.system import OBJECTIVES
from ddm_embed.models.layers import REMAT

CHOICES = {
    "model.attention": ("auto", "xla", "cudnn"),
    "model.dtype": ("auto", "float32", "bfloat16"),
    "model.remat": tuple(REMAT),
    "data.augment": AUGMENTATIONS,
    "embedding.input": INPUTS,
    "objective.name": OBJECTIVES,
    "diffusion.process": tuple(PROCESSES),
    "diffusion.prediction": PREDICTIONS,
    "diffusion.timesteps": LAWS,
}

# field: (least, most), both allowed; None for no bound
RANGES = {
    "data.image_size": (1, None),
    "data.test_fraction": (0.0, 0.9),
    "data.crop_padding": (1, None),
    "data.resident_gib": (0.0, None),
    "data.threads": (1, None),
    "model.width": (4, None),
    "model.depth": (1, None),
    "model.encoder_depth": (1, None),
    "model.heads": (1, None),
    "model.mlp_ratio": (0.1, None),
    "embedding.dim": (1, None),
    "embedding.kl_weight": (0.0, None),
    "embedding.l1_weight": (0.0, None),
    "embedding.drop": (0.0, 0.99),
    "objective.temperature": (0.001, None),
    "objective.projection": (1, None),
    "objective.hidden": (1, None),
    "objective.mask_share": (0.01, 0.99),
    "consistency.weight": (0.0, None),
    "diffusion.steps": (0, None),
    "diffusion.min_snr_gamma": (1e-6, None),
    "diffusion.fixed_t": (0.001, 1.0),
    "diffusion.logit_mean": (-10.0, 10.0),
    "diffusion.logit_std": (0.001, 10.0),
    "diffusion.adversary_temperature": (0.001, None),
    "optimizer.learning_rate": (0.0, None),
    "optimizer.warmup_steps": (0, None),
    "optimizer.weight_decay": (0.0, None),
    "optimizer.b1": (0.0, 0.99999),
    "optimizer.b2": (0.0, 0.99999999),
    "optimizer.clip_norm": (0.0, None),
    "optimizer.ema_decay": (0.0, 0.99999999),
    "train.steps": (1, 2**31 - 2),
    "train.batch_size": (1, None),
    "train.accumulate": (1, None),
    "train.seed": (0, 2**31 - 1),
    "train.log_every": (1, None),
    "train.checkpoint_every": (1, None),
    "train.keep_checkpoints": (1, None),
    "train.picture_every": (0, None),
    "mesh.data": (-1, None),
    "mesh.fsdp": (1, None),
    "mesh.tensor": (1, None),
}

SAMPLE_RANGES = {
    "steps": (2, 10_000),
    "images": (2, 64),
    "samples": (2, 64),
    "training_images": (10, None),
    "grid_range": (1e-6, None),
    "seed": (0, 2**31 - 1),
}

PROBE_RANGES = {
    "neighbours": (1, None),
    "temperature": (1e-4, None),
    "validation_fraction": (0.01, 0.9),
    "seed": (0, 2**31 - 1),
    "noise_draws": (1, None),
    "averaged_draws": (1, None),
    "batch_size": (1, None),
    "selection_images": (10, None),
    "training_images": (10, None),
    "features_gib": (0.0, None),
    "measure_images": (3, None),
    "reader_epochs": (1, None),
    "shot_draws": (1, None),
    "semi_draws": (1, None),
    "reader_width": (8, None),
}

# field: (field that must have one of the values for it to matter, those values)
IDLE = {
    "objective.temperature": ("objective.name", ("simclr",)),
    "objective.projection": ("objective.name", ("simclr", "byol")),
    "objective.hidden": ("objective.name", ("simclr", "byol")),
    "objective.mask_share": ("objective.name", ("mae",)),
    "objective.normalise": ("objective.name", ("mae",)),
    "consistency.weight": ("objective.name", ("diffusion",)),
    "diffusion.process": ("objective.name", ("diffusion",)),
    "diffusion.steps": ("objective.name", ("diffusion",)),
    "diffusion.prediction": ("objective.name", ("diffusion",)),
    "diffusion.weight": ("objective.name", ("diffusion",)),
    "diffusion.timesteps": ("objective.name", ("diffusion",)),
    "embedding.l1_weight": ("objective.name", ("diffusion",)),
    "embedding.mixup": ("objective.name", ("diffusion",)),
    "embedding.drop": ("objective.name", ("diffusion",)),
    "diffusion.fixed_t": ("diffusion.timesteps", ("fixed",)),
    "diffusion.logit_mean": ("diffusion.timesteps", ("logit_normal",)),
    "diffusion.logit_std": ("diffusion.timesteps", ("logit_normal",)),
    "diffusion.adversary_temperature": ("diffusion.timesteps", ("adversarial",)),
    "diffusion.min_snr_gamma": ("diffusion.weight", ("min_snr",)),
    "embedding.kl_weight": ("embedding.gaussian", (True,)),
    "embedding.timed": ("embedding.input", ("x0", "xt", "view")),
    "model.encoder": ("embedding.input", ("x0", "xt", "view")),
}
