"""Writes a page to a file of the user's, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from conf.errors import SettingsError, StorageError


def check_page(file: str | None) -> None:
    """Refuse a file that cannot be written, if a page is asked for, before work that may take minutes.

    Raises:
        SettingsError: its folder is not there, or it is a folder itself.
    """
    if file is None:
        return
    path = Path(file)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise SettingsError(f"--html: {file} is a folder, or its folder is not there; give a file in a folder that is")


def write_page(file: str, package: str, template: str, **values: Any) -> None:
    """Write a page from a template beside a package's modules; a browser sees the page before or the new one.

    Raises:
        StorageError: the file cannot be written.
    """
    from conf.pages.environment import page_environment  # noqa: PLC0415 - Jinja takes time, and most answers no page

    page = page_environment(package).get_template(template).render(**values)
    try:
        _exchange(Path(os.path.realpath(file)), page.encode())
    except OSError as error:
        raise StorageError(f"--html: {file} cannot be written: {error.strerror}") from error


def _exchange(path: Path, content: bytes) -> None:
    if path.exists() and not path.is_file():  # like /dev/stdout, in whose place no file may be put
        path.write_bytes(content)
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
