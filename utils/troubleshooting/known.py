"""What is known about an error: how to recognize it, what it means, what to try."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """pattern: of the start of `Type: message`. at: of the innermost layer that was being called and the first
    tensor's shape there, such as `Conv2d [8, 28, 28]`; a part may be missing.
    """

    pattern: str
    means: str
    tries: str
    at: str = ""

    def match(self, text: str, at: str) -> re.Match[str] | None:
        """text: `Type: message`."""
        if self.at and not re.fullmatch(self.at, at):
            return None
        return re.match(self.pattern, text, re.DOTALL)
