"""Evaluation of a run's frozen embeddings; the only reader of test labels."""


def main(argv: list[str] | None = None) -> int:
    """Runs `python -m ddm_embed.probe` here; its exit code. argv: the arguments, None: this process's own."""
    from ddm_embed.probe.__main__ import main as program

    return program(argv)
