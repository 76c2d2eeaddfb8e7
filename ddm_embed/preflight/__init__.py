"""What a training step takes of chips that need not be there."""


def main(argv: list[str] | None = None) -> int:
    """Runs `python -m ddm_embed.preflight` here; its exit code. argv: the arguments, None: this process's own."""
    from ddm_embed.preflight.__main__ import main as program

    return program(argv)
