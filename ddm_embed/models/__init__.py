"""Flax modules: pure functions of parameters and arrays, knowing no config, mesh or loss."""
