"""What a training step takes of chips that need not be there."""
