"""Texts of others (names, tags, servers' words, logs), made fit to be shown.

A character that moves the cursor, changes colours, hides or reorders what stands beside it is shown as the
escape that Python writes for it, such as ``\\x1b`` or ``\\u202e``. Imports nothing of ours: errors and
results are made of it.
"""

from __future__ import annotations

__all__ = ["is_plain", "kind_of", "one_line", "visible"]

# Control characters, marks of format (joiners, directions, tags), separators of lines, halves of characters.
_UNSEEN = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def visible(text: str) -> str:
    """Return a text whose only control characters are its ends of lines and tabs."""
    return text if _is_printable(text) else "".join(map(_shown, text))


def one_line(text: str) -> str:
    """Return a text without any control character: a name cannot begin a line."""
    return text if _is_printable(text) else "".join(_SHORT.get(each) or _shown(each) for each in text)


def kind_of(value: object) -> str:
    """Return what kind of thing a value is: an int, a DataFrame."""
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def is_plain(text: str) -> bool:
    """Tell whether a text has no control character at all."""
    return one_line(text) == text


def _is_printable(text: str) -> bool:
    return text.isprintable() and (text.isascii() or not any(filler in text for filler in _FILLERS))


def _shown(character: str) -> str:
    if character in "\n\t" or _is_printable(character):
        return character
    from unicodedata import category

    if category(character) not in _UNSEEN and character not in _FILLERS:
        return character  # a space of another width, a character that is newer than this Python
    number = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
