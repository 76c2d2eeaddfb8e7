"""Pictures of what a run's codes hold and of what its denoiser makes of them."""


def main(argv: list[str] | None = None) -> int:
    """Runs `python -m ddm_embed.sample` here; its exit code. argv: the arguments, None: this process's own."""
    from ddm_embed.sample.__main__ import main as program

    return program(argv)
