"""One command for one table: the runs of a study, trained, probed and compared."""


def main(argv: list[str] | None = None) -> int:
    """Runs `python -m ddm_embed.study` here; its exit code. argv: the arguments, None: this process's own."""
    from ddm_embed.study.__main__ import main as program

    return program(argv)
