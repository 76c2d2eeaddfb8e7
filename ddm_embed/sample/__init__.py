"""Pictures of what a run's codes hold and of what its denoiser makes of them."""
