"""How an encoder is trained: one method a file."""
