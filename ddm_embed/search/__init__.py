"""Nearest neighbours in a file of embeddings."""


def main(argv: list[str] | None = None) -> int:
    """Runs `python -m ddm_embed.search` here; its exit code. argv: the arguments, None: this process's own."""
    from ddm_embed.search.__main__ import main as program

    return program(argv)
