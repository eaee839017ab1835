"""An exported folder to a repository of the Hugging Face hub, with its card and its licence."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
_NOT_STATED = (
    'license: "other"\nlicense_name: "not-stated"\n',
    "The run states no licence for its",
)
_NAME = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"  # as the hub has them, which takes no .. or --
_REPOSITORY = re.compile(rf"(?!.*(?:\.\.|--|\.git$)){_NAME}/(?=.{{1,96}}$){_NAME}", re.ASCII)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
# of the hub's identifiers those that are often written in another way
_USUAL = (
    "apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "agpl-3.0",
)  # fmt: skip
_FAMILIES = ("cc", "bsd", "gpl")  # identifiers, too


def check_push(push: str, licence: str) -> None:
    """Raise ValueError for a repository or licence that the hub has no form of, or none of both."""
    if push and not _REPOSITORY.fullmatch(push):
        raise ValueError(
            f"--push {push!r}: write USER/NAME, a repository of the hub: letters, digits, _, and "
            f"within a name single - and ."
        )
    if push and not licence:
        raise ValueError(
            f"--push {push}: no licence; settle what the data and the first weights allow, then "
            f"give --licence=ID, as the hub calls it (cc-by-nc-4.0, apache-2.0, other)"
        )
    if licence and not _LICENCE.fullmatch(licence):
        raise ValueError(f"--licence {licence!r}: write the hub's identifier, such as cc-by-nc-4.0")
    for usual in _USUAL:
        if (
            licence
            and licence not in (usual, *_FAMILIES)
            and _letters(usual).startswith(_letters(licence))
        ):
            raise ValueError(f"--licence {licence!r}: the hub's identifier is {usual}")


def _letters(licence: str) -> str:
    return licence.replace("-", "").replace(".", "")


def state_licence(folder: Path, licence: str) -> None:
    """Write the licence into the front matter of the card, and into its words."""
    head, words = _NOT_STATED
    text = (folder / CARD).read_text()
    named = f"license: {json.dumps(licence)}\n"
    text = text.replace(head, named, 1)
    text = text.replace(words, f"Whoever publishes them states the licence `{licence}` for the", 1)
    (folder / CARD).write_text(text)


def files_of(folder: Path) -> list[str]:
    """Return what a push sends, in the order of names.

    Raises ValueError where there is no card, or where it states no licence.
    """
    card = folder / CARD
    if not card.is_file():
        raise ValueError(f"{folder}: has no {CARD}, the card; export the run again")
    text = card.read_text()
    if _NOT_STATED[0] in text or not re.search(r"^license: ", text, re.MULTILINE):
        raise ValueError(f"{card}: states no licence; give --licence=ID")
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def push(folder: Path, repository: str, *, public: bool) -> str:
    """Send an exported folder to the hub (of HF_ENDPOINT, where that is set); return the address.

    Args:
        repository: USER/NAME, made where it is not there.
        public: whether one that is made now is seen by everybody; else by its owner.

    Raises ValueError as `files_of`, RuntimeError where the hub does not take it.
    """
    files = files_of(folder)
    with _hub(repository) as hub:
        hub.create_repo(repository, private=not public, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=files,
            commit_message=f"Export of maskedclip: {len(files)} files",
        )  # fmt: skip
    return str(commit.commit_url)


def check_hub(repository: str) -> None:
    """Raise RuntimeError where the hub is not reached, or there is no token that it knows."""
    with _hub(repository) as hub:
        hub.whoami()


@contextmanager
def _hub(repository: str) -> Iterator["HfApi"]:
    """Give the hub's interface; what it refuses is a RuntimeError of one line."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError
    except ImportError:
        raise RuntimeError(
            f"--push {repository}: no huggingface_hub here; run pip install huggingface_hub"
        ) from None
    try:
        yield HfApi()
    except LocalTokenNotFoundError:
        raise RuntimeError(f"{repository}: no token of the hub here; run `hf auth login`") from None
    except (HTTPError, OSError) as error:
        raise RuntimeError(
            f"{repository}: the hub does not take it ({' '.join(str(error).split())[:300]}); see "
            f"that the token may write there, then run the same command again"
        ) from error
