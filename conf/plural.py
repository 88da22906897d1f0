"""Numbers with their nouns, as people read them in answers, errors, log lines and pages."""

from __future__ import annotations


def plural(count: int, noun: str, nouns: str = "") -> str:
    """`1 picture`, `1,200 pictures`; `nouns` where the plural has more than an s."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"
