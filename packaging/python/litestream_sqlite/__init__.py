"""The SQLite extension liblitestream: live read replication over HTTP."""

from pathlib import Path

__all__ = ["load", "loadable_path"]


def loadable_path() -> str:
    """The path of the extension, without the suffix, as ``load_extension`` of SQLite takes it."""
    return str(Path(__file__).resolve().parent / "liblitestream")


def load(conn) -> None:
    """Loads the extension into a connection of ``sqlite3`` or ``apsw``.

    Extensions are allowed for that moment only. Raises AttributeError if this Python's ``sqlite3`` was built without
    them: use ``apsw``, or a Python that has them, such as Debian's.
    """
    conn.enable_load_extension(True)
    try:
        conn.load_extension(loadable_path())
    finally:
        conn.enable_load_extension(False)
