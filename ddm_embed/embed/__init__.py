"""Embeddings of a user's images: made, and kept in a file that others can read."""


def main(argv: list[str] | None = None) -> int:
    """Runs `python -m ddm_embed.embed` here; its exit code. argv: the arguments, None: this process's own."""
    from ddm_embed.embed.__main__ import main as program

    return program(argv)
