"""Write the built-in text tower's WordPiece vocabulary from the expert dictionary.

    python tools/make_vocabulary.py

Every word of the dictionary is a token, and every letter and digit too, so that no caption in
ASCII has an unknown part. A change of the dictionary changes the vocabulary: weights of a built-in
text tower trained before then no longer fit, so run it only on purpose.
"""

import re
import string
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.command import CommandLine
from maskedclip.data.captions import TEMPLATE
from maskedclip.data.expert_dictionary import EXPERT, KEYWORDS


def vocabulary() -> list[str]:
    """Return the tokens: BERT's special ones, punctuation, letters, then words by alphabet."""
    texts = [TEMPLATE.replace("[CLS]", ""), *EXPERT, *KEYWORDS]
    texts += [words for descriptions in EXPERT.values() for words in descriptions]
    words = {word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower())}
    letters = sorted(string.ascii_lowercase + string.digits)
    pieces = [*letters, *("##" + letter for letter in letters), *("##s", "##ing", "##ed", "##al")]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys([*special, *sorted(string.punctuation), *pieces, *sorted(words)]))


if __name__ == "__main__":
    CommandLine().read(__doc__)
    from maskedclip.models.text import VOCABULARY  # loads torch

    VOCABULARY.write_text("\n".join(vocabulary()) + "\n")
