"""Diffusion mathematics: knows no network, no config and no device mesh."""
