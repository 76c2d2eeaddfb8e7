"""Files of run directories, on a disk or in an object store such as gs://."""

from pathlib import Path

from ddm_embed.errors import UserError


def place(text: str) -> Path:
    """The path that a flag names; one of an object store has the same methods, by way of etils.

    Raises:
      UserError: the library that reaches the store is missing.
    """
    if "://" not in text:
        return Path(text)
    from etils import epath  # slow to import, and only a store needs it

    path = epath.Path(text)
    try:
        path.exists()
    except ImportError as error:
        raise UserError(f"{text}: {error}; pip install -e '.[gcs]'") from error
    return path


def is_store(path: Path) -> bool:
    """Whether a path is an object store's, where files are written whole, and nothing is appended to or locked."""
    return not isinstance(path, Path)


def absolute(path: Path) -> Path:
    """From the root; a store's path begins there."""
    return path if is_store(path) else path.absolute()


def write_whole(path: Path, content: str | bytes) -> None:
    """Whole or not at all, also if the process is killed; makes its folder."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_store(path):
        path.write_bytes(data)
        return
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
