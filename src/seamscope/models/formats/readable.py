r"""Text of a foreign file, shown so that nothing in it can hide.

Knows which characters move, reorder or conceal text on a terminal or in a window. Does not know
where the text comes from.

A name with a line break can look like two lines, an escape code can erase the line before, and
bidirectional controls show ``os.system`` as something else (CVE-2021-42574, "Trojan Source"). Such
characters are written as Python escapes: ``\x1b``, ``\u202e``.
"""

from __future__ import annotations

import importlib.util
import io
import re
import tokenize
import unicodedata

_MOST = 400  # characters of a name
_GAP = re.compile(r"(?<=\S)[ \t\u3000\xa0]{60,}(?=\S)")
_EMPTY = re.compile(r"\n(?:[ \t]*\n){40,}")
# control, format (bidi, zero width), surrogate, private, unassigned, line and paragraph separator
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# letters that are drawn as nothing
_BLANK = set("\u115f\u1160\u3164\uffa0\u2800\u034f\ufe0f")


def one_line(text: str) -> str:
    """Return text as one line, without anything that hides or moves text; long text is shortened.

    Parameters
    ----------
    text
        A name or an expression from a foreign file.
    """
    whole = "".join(map(_visible, text))
    if len(whole) <= _MOST:
        return whole
    half = _MOST // 2
    return f"{whole[:half]} … ({len(whole) - 2 * half} more characters) … {whole[-half:]}"


def lines(text: str) -> str:
    """Return text with its lines; long gaps, which push code out of sight, are counted instead."""
    whole = "".join(c if c in "\n\t" else _visible(c) for c in text)
    whole = _GAP.sub(lambda gap: f" «{len(gap[0])} spaces» ", whole)
    return _EMPTY.sub(lambda gap: f"\n«{gap[0].count(chr(10)) - 1} empty lines»\n", whole)


def python_text(data: bytes) -> str:
    """Return Python source as Python itself decodes it.

    Parameters
    ----------
    data
        The file. A declared encoding other than UTF-8 is named in a first line, since it may turn
        a comment into code. Bytes that cannot be decoded are shown as escapes.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = importlib.util.decode_source(data)
    except (SyntaxError, ValueError, LookupError):
        return "# Not UTF-8: other bytes are shown as \\x escapes.\n" + data.decode(
            "ascii", errors="backslashreplace"
        )
    if encoding in ("utf-8", "utf-8-sig"):
        return text
    return f"# Decoded as {encoding}, which the file declares.\n{text}"


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in _HIDDEN or character in _BLANK
    return character.encode("unicode_escape").decode() if hidden else character


__all__ = ["lines", "one_line", "python_text"]
