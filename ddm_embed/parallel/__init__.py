"""The device mesh, and where each parameter and batch lies on it."""
