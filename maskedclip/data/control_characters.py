"""Characters in names of others that move a terminal's cursor, colour it or turn letters round."""

import re

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def escaped(text: str, *, keep: str = "") -> str:
    """Return a text with its control characters, but those to keep, as \\x1b."""
    return CONTROL.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)
