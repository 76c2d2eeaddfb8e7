"""What a training step will take on chips that need not be there: memory, operations, traffic, time."""
