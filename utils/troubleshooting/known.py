"""What is known about an error: how to recognize it, what it means, what to try."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """pattern: of the start of `Type: message`. layer: only inside this class of layer. shape: only where the input's
    shape, such as `[8, 28, 28]`, matches this. tensors: worth showing?
    """

    pattern: str
    means: str
    tries: str
    layer: str = ""
    shape: str = ""
    tensors: bool = True

    def match(self, text: str, layer: str, shape: str) -> re.Match[str] | None:
        """text: `Type: message`. layer: the class of the innermost layer that was being called, or ''. shape: of the
        first tensor there, or ''.
        """
        if self.layer and not re.fullmatch(self.layer, layer):
            return None
        if self.shape and not re.fullmatch(self.shape, shape):
            return None
        return re.match(self.pattern, text, re.DOTALL)
