"""Writes a page to a file of the user's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from conf.errors import SettingsError, StorageError
from conf.whole_file import can_write, write_whole


def check_page(file: str | None) -> None:
    """Refuse a file that cannot be written, if a page is asked for, before work that may take minutes.

    Raises:
        SettingsError: its folder is not there, or it is a folder itself.
        StorageError: its folder is not writable.
    """
    if file is None:
        return
    if os.path.isdir(file) or not os.path.isdir(os.path.dirname(os.path.abspath(file))):
        raise SettingsError(f"--html: {file} is a folder, or its folder is not there; give a file in a folder that is")
    if not can_write(Path(file)):
        raise StorageError(f"--html: {file} cannot be written; give a file in a folder that may be written to")


def write_page(file: str, package: str, template: str, **values: Any) -> None:
    """Write a page from a template beside a package's modules; a browser sees the page before or the new one.

    Raises:
        StorageError: the file cannot be written.
    """
    from conf.pages.environment import page_environment  # noqa: PLC0415 - Jinja takes time, and most answers no page

    page = page_environment(package).get_template(template).render(**values)
    try:
        write_whole(Path(file), page.encode())
    except OSError as error:
        raise StorageError(f"--html: {file} cannot be written: {error.strerror}") from error
