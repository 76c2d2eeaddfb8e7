"""Probe results of several runs side by side."""


def main(argv: list[str] | None = None) -> int:
    """Runs `python -m ddm_embed.compare` here; its exit code. argv: the arguments, None: this process's own."""
    from ddm_embed.compare.__main__ import main as program

    return program(argv)
