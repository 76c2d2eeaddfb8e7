"""A trained encoder as a folder to copy, to publish, and to use without its run."""


def main(argv: list[str] | None = None) -> int:
    """Runs `python -m ddm_embed.export` here; its exit code. argv: the arguments, None: this process's own."""
    from ddm_embed.export.__main__ import main as program

    return program(argv)
