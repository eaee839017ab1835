"""A run's weights for other libraries: written, opened again, compared, and described."""

import json
import logging
import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from maskedclip import __version__
from maskedclip.weights.model_card import FILE, card
from maskedclip.weights.source_run import Check, Subject, read

logger = logging.getLogger(__name__)
FACTS = "export.json"  # tells a folder of ours, which may be written again


def export(run: Path, to: str, out: Path | None = None) -> str:
    """Write the weights of `run` for the library `to`; return what to tell the user.

    The folder appears under its name when it is whole, and takes the place of an earlier export.

    Args:
        run: directory of a pre-training run, or one of its files of weights.
        to: one of TARGETS.
        out: folder; RUN/export/TARGET where not given.

    Raises ValueError where the run cannot be expressed there, RuntimeError where the library's
    features are not the run's.
    """
    subject = read(run)
    out = out or subject.run / "export" / to
    target = import_module(f"maskedclip.weights.to_{to}")
    logger.info("%s: %d tensors of %s", to, len(subject.encoder), subject.file)
    _write(target, subject, to, out)
    try:
        checks = _checked(target, subject, out)
        remarks = target.remarks(subject)
        here = Path("FOLDER")
        code = [*target.opening(subject, here), *target.using(subject, here)]
        (out / FILE).write_text(card(subject, to, code, checks, remarks))
    except BaseException:
        shutil.rmtree(out)  # ours, and not what it should be
        raise
    return _told(out, checks, remarks, target.opening(subject, out))


def _write(target: ModuleType, subject: Subject, to: str, out: Path) -> None:
    if out.exists() and not (out / FACTS).is_file() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"{out}: holds other things than an export; choose another --out")
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        target.write(subject, temporary, out)
        facts = {"to": to, "run": subject.name, "file": subject.file.name, "by": __version__}
        (temporary / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checked(target: ModuleType, subject: Subject, out: Path) -> list[Check]:
    logger.info("written; now opened as its users will, and compared")
    checks: list[Check] = target.checks(subject, out)
    for check in checks:
        if check.limit is not None and not check.difference <= check.limit:
            raise RuntimeError(
                f"{out}: {check.what} are {check.difference:.2g} from the run's, more than "
                f"{check.limit:g}; nothing is left there, please report it"
            )
    return checks


def _told(out: Path, checks: Sequence[Check], remarks: Sequence[str], opens: Sequence[str]) -> str:
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    lines = [f"{out}: {', '.join(names)}"]
    lines += [f"  {check.difference:8.1e} from the run: {check.what}" for check in checks]
    lines += [f"  note: {remark}" for remark in remarks]
    return "\n".join([*lines, f"the card is {out / FILE}; it opens with:", *opens]) + "\n"
