"""The command line, once: a command declares its words and flags, and reads them in one call.

    EVALUATE = CommandLine(Options(EvaluateConfig()), words=[Word("WEIGHTS", field="weights")])
    config = EVALUATE.read(__doc__).config()

Flags are the fields of frozen dataclasses, and what stands in the help beside each is the comment
beside it in the source. Fire collects words and flags, and runs nothing: values stay text until
`override` knows which kind is wanted. Nothing here imports torch: --help and mistakes answer at
once.
"""

import errno
import inspect
import logging
import os
import re
import select
import shlex
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NoReturn,
    TextIO,
    TypeVar,
    cast,
    get_args,
    get_origin,
)

import fire
from fire.decorators import SetParseFn

from maskedclip.casting import cast_value, did_you_mean
from maskedclip.cluster_profile import profiled
from maskedclip.config import Config, FinetuneConfig, LaunchConfig, field_kinds, override
from maskedclip.data.control_characters import escaped
from maskedclip.models.checkpoints.files import nearest_path
from maskedclip.recipes import RECIPES

T = TypeVar("T")
HELP, HELP_ALL = "help", "help all"
_PACKAGE = str(Path(__file__).parent) + os.sep
_ABSENT = re.compile(
    r"(?:^|: )(?:--\w+[ =])?(?P<path>[^:;]+): no such (?:directory|folder or image|image|file)"
)
_BROKEN_PIPE = 141  # exit code that a shell shows for SIGPIPE
ANY = sys.maxsize  # words
COMMON: Mapping[type, Sequence[str]] = {  # what --help shows of the large ones; --help all has all
    Config: (
        "name", "out", "seed", "init_from", "data.paired", "data.unpaired", "data.paired_batch",
        "data.unpaired_batch", "data.leave_out_tests", "model.size", "model.image_size",
        "model.mask_ratio", "loss.clip", "loss.mfd", "optim.epochs", "optim.base_lr",
        "optim.accumulate", "engine.save_every", "after.datasets",
    ),
    LaunchConfig: (
        "nodes", "gpus", "cluster", "dry_run", "hours", "partition", "setup", "profile",
    ),
    FinetuneConfig: (
        "weights", "dataset", "task", "name", "out", "recipe", "fraction", "seed", "image_size",
        "batch", "epochs", "warmup_epochs", "lr", "layer_decay", "encoder", "balance",
        "threads",
    ),
}  # fmt: skip
_TRY_AGAIN = "see that the path can be read and written, then run the same command again"
_FIXES = {
    errno.EACCES: "give yourself write permission or choose another --out",
    errno.EROFS: "choose an --out that can be written",
    errno.ENOSPC: "make room, then run the same command again",
    errno.EDQUOT: "make room in your quota, then run the same command again",
    errno.EEXIST: "a file stands where a folder is wanted; choose another --out",
    errno.ENOTDIR: "a file stands where a folder is wanted; choose another --out",
}
_FLAG = re.compile(r"--|-[A-Za-z]")  # -1 and -.5 are values
_DASHES = ("\N{EN DASH}", "\N{EM DASH}", "\N{MINUS SIGN}")  # as documents have them for hyphens
_NO_WORDS = "this command takes no words; write options as --NAME=VALUE"
_JOIN = "\0"  # between the values of a repeated flag, on their way through Fire


class Word(NamedTuple):
    """A word of a command line that is no flag, such as RUN; all but a command's last are single.

    Attributes:
        field: of the dataclasses, which it fills and which may be written as a flag instead.
        choices: what it may be; none: anything.
        missing: message where it is not given.
        extra: message where there is one more.
    """

    name: str
    field: str = ""
    least: int = 1
    most: int = 1
    choices: Collection[str] = ()
    missing: str = ""
    extra: str = ""

    @property
    def noun(self) -> str:
        return self.name.lower().replace("_", " ")

    @property
    def enough(self) -> str:
        """What is said where there are more of them."""
        count = f"one {self.noun} is" if self.most == 1 else f"{self.most} are"
        return self.extra or f"{count} enough; write options as --NAME=VALUE"

    def check(self, taken: Sequence[str], *, elsewhere: bool) -> None:
        """Raise ValueError where these are too few or no choices, or a flag has the field too."""
        if taken and elsewhere:
            raise ValueError(f"{taken[0]!r} and --{self.field}: give one of them")
        if len(taken) < self.least and not elsewhere:
            count = f"{len(taken)} {self.noun}s" if self.least > 1 else f"no {self.noun}"
            raise ValueError(self.missing or f"{count} given; see --help")
        for text in taken:
            if self.choices and text not in self.choices:
                near = did_you_mean(text, self.choices, f"use one of {', '.join(self.choices)}")
                raise ValueError(f"no {self.noun} {text!r}; {near}")


@dataclass(frozen=True)
class Options:
    """Flags of a command: the fields of a dataclass, with these defaults.

    Args:
        prefix: stands before each field, as in --finetune.epochs.
        hidden: fields that the command sets itself.
    """

    default: Any
    title: str = "Options, as --NAME=VALUE:"
    prefix: str = ""
    hidden: Collection[str] = ()

    def kinds(self) -> dict[str, Any]:
        """Return what each flag holds, by its name."""
        kinds = field_kinds(type(self.default))
        return {self.prefix + name: k for name, k in kinds.items() if name not in self.hidden}

    def lines(self, *, every: bool) -> list[str]:
        """Return a line a flag: its default, its meaning, and how a list is written."""
        hidden = set(self.hidden)
        common = COMMON.get(type(self.default))
        if common and not every:
            hidden |= field_kinds(type(self.default)).keys() - set(common)
        lines = _lines(self.default, self.prefix, "", hidden)
        return ["", self.title, *lines] if lines else []


@dataclass(frozen=True)
class Given:
    """What a command line says: other words, and the changed fields of each of its Options."""

    options: Sequence[Options]
    words: tuple[str, ...]
    changes: tuple[dict[str, Any], ...]
    help: str = ""  # HELP or HELP_ALL where it was asked for

    def config(self, index: int = 0, base: Any = None) -> Any:
        """Return the dataclass of those Options, or `base` in place of its defaults, changed.

        Raises ValueError for a value of another kind, or one that its __post_init__ refuses.
        """
        options, changes = self.options[index], self.changes[index]
        kinds = options.kinds()
        for name, value in changes.items():  # for messages that name the flag
            cast_value(value, kinds[options.prefix + name], f"--{options.prefix}{name}")
        return override(options.default if base is None else base, changes)


class CommandLine:
    """The words and flags that one command takes; of two Options with one flag the first has it."""

    def __init__(
        self, *options: Options, words: Sequence[Word] = (), greedy: Collection[str] = ()
    ) -> None:
        """Declare a command; the flags `greedy` take all words behind them, as --against a b."""
        self.options, self.words, self.greedy = options, words, greedy
        self.owners: dict[str, int] = {}
        self.kinds: dict[str, Any] = {}
        for index, option in enumerate(options):
            for name, kind in option.kinds().items():
                if self.owners.setdefault(name, index) == index:
                    self.kinds[name] = kind

    def read(
        self, usage: str | None, arguments: Sequence[str] | None = None, about: Sequence[str] = ()
    ) -> Given:
        """Return what the command line says; --help and a mistake end the program.

        Args:
            arguments: None: those of this process.
            about: lines that stand above the options in the help.
        """
        with one_line_errors():
            given = self.parse(sys.argv[1:] if arguments is None else arguments)
        if given.help:
            self.show_help(usage, given.help, about)
        return given

    def show_help(self, usage: str | None, asked: str, about: Sequence[str] = ()) -> NoReturn:
        """Print the help and end the program."""
        flags = [x for option in self.options for x in option.lines(every=asked == HELP_ALL)]
        more = len(self.kinds) - sum(line.startswith("  --") for line in flags)
        if more > 0:
            flags += ["", f"{more} more options: --help all"]
        with one_line_errors():
            sys.stdout.write("\n".join([str(usage).strip(), *about, *flags]) + "\n")
        raise SystemExit(0)

    def parse(self, arguments: Sequence[str]) -> Given:
        """Return what the arguments say, without touching anything; ValueError for a mistake.

        Beside --help words may be missing, and a mistake only costs the words and the changes.
        """
        asked, arguments = _without_help(arguments)
        try:
            given = self._given(arguments, check_words=not asked)
        except ValueError:
            if not asked:
                raise
            given = Given(self.options, (), tuple({} for _ in self.options))
        return replace(given, help=asked)

    def _given(self, arguments: Sequence[str], *, check_words: bool) -> Given:
        words, flags = self._collected(arguments)
        values = {name: self._value(name, text.split(_JOIN)) for name, text in flags.items()}
        rest = self._fill(words, values) if check_words else words
        changes: tuple[dict[str, Any], ...] = tuple({} for _ in self.options)
        for name, value in values.items():
            index = self.owners[name]
            changes[index][name.removeprefix(self.options[index].prefix)] = value
        return Given(self.options, tuple(rest), changes)

    def _collected(self, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Return (words, flags): Fire's reading of arguments that leave it nothing to guess.

        Fire alone would give a bare switch the next word, let the last of two flags win, and take
        `--out --size=64` for an --out called True.
        """
        words: list[str] = []
        texts: dict[str, list[str]] = {}
        rest = list(arguments)
        while rest:
            token = rest.pop(0)
            if token == "--":
                words, rest = words + rest, []
            elif token.startswith(_DASHES):
                raise ValueError(f"{token!r} begins with a dash; write flags with two hyphens, --")
            elif not _FLAG.match(token):
                words.append(token)
            else:
                name, equals, value = token.lstrip("-").partition("=")
                name = name.replace("-", "_")
                self._check_known(name, token)
                values = [value] if equals else self._values_after(name, rest)
                texts.setdefault(name, []).extend(values)
        for word in words:
            if word == "-" or _FLAG.match(word):  # which Fire would not take for a word
                raise ValueError(f"{word!r}: a word cannot begin with a hyphen; write ./{word}")

        @SetParseFn(str)
        def collect(*words: str, **flags: str) -> tuple[list[str], dict[str, str]]:
            return list(words), flags

        named = [f"--{name}={_JOIN.join(values)}" for name, values in texts.items()]
        return fire.Fire(collect, command=[*words, *named], serialize=lambda _: None)

    def _check_known(self, name: str, token: str) -> None:
        if name in self.kinds:
            return
        typed = token.partition("=")[0]
        without = re.sub(r"^no_?", "", name)
        if self.kinds.get(without) is bool:
            raise ValueError(f"unknown flag {typed}; did you mean --{without}=false?")
        if not self.kinds:
            raise ValueError(f"unknown flag {typed}; this command takes none but --help")
        near = did_you_mean(name, self.kinds).replace("did you mean ", "did you mean --")
        raise ValueError(f"unknown flag {typed}; {near}")

    def _values_after(self, name: str, rest: list[str]) -> list[str]:
        """Take the values of a flag that has no = from the arguments behind it."""
        if self.kinds[name] is bool:
            stated = rest and rest[0].lower() in ("true", "false")
            return [rest.pop(0) if stated else "true"]
        count = 0
        while count < len(rest) and not _FLAG.match(rest[count]):
            count += 1
            if name not in self.greedy:
                break
        if not count:
            hint = f"write --{name}=VALUE"
            if rest and rest[0] != "--":
                hint = f"write --{name}={rest[0]} if {rest[0]} is its value"
            raise ValueError(f"--{name} needs a value; {hint}")
        values, rest[:count] = rest[:count], []
        return values

    def _value(self, name: str, values: list[str]) -> Any:
        """Return the text of a flag: of a list that was repeated, all of it."""
        kind = self.kinds[name]
        if kind is bool and values[-1].lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError(f"--{name} {values[-1]}: it takes no value; write --{name} alone")
        if values == [""] and "Path" in str(kind):
            raise ValueError(f"--{name} needs a value; write --{name}=PATH")
        if get_origin(kind) is Annotated:
            return tuple(values)
        if _is_list(kind):
            return ",".join(values)
        if len(values) > 1:
            raise ValueError(f"--{name} is given twice: {' and '.join(values)}; give it once")
        return values[0]

    def _fill(self, words: Sequence[str], values: dict[str, Any]) -> list[str]:
        """Return the words that fill no field; ValueError for one too many, or too few."""
        rest = list(words)
        left: list[str] = []
        for index, word in enumerate(self.words):
            most = word.most if index == len(self.words) - 1 else 1
            taken, rest[:most] = rest[:most], []
            word.check(taken, elsewhere=word.field in values)
            if not word.field:
                left += taken
            elif taken:
                values[word.field] = tuple(taken) if word.most > 1 else taken[0]
        if rest:
            raise ValueError(f"{rest[0]!r}: {self.words[-1].enough if self.words else _NO_WORDS}")
        return left


def _without_help(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Return (HELP, HELP_ALL or nothing, the other arguments)."""
    asked, rest = "", list(arguments)
    end = rest.index("--") if "--" in rest else len(rest)
    for index in reversed(range(end)):
        name, _, value = rest[index].partition("=")
        if name in ("--help", "-h", "-help"):
            every = [value, *rest[index + 1 : index + 2]]
            asked = HELP_ALL if "all" in every else HELP
            del rest[index : index + 1 + (not value and "all" in every)]
    return asked, rest


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis


def _lines(config: Any, prefix: str, path: str, hidden: Collection[str]) -> list[str]:
    notes, kinds = _comments(type(config)), field_kinds(type(config))
    lines = []
    for field in fields(config):
        value, name = getattr(config, field.name), path + field.name
        if is_dataclass(value):
            lines += _lines(value, prefix, f"{name}.", hidden)
        elif name not in hidden:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            flag = f"--{prefix}{name}" + ("" if value is False else f"={shown}")
            note = f"{notes.get(field.name, '')} {_how_to_write(kinds[field.name])}"
            lines.append(f"  {flag:45} {note.strip()}".rstrip())
    return lines


def _how_to_write(kind: Any) -> str:
    """Return what the help says of the form of a value: a list's, or the choices."""
    if get_origin(kind) is Annotated:
        return "(repeat the flag for more; commas belong to the value)"
    if get_origin(kind) is Literal:
        return f"({'|'.join(map(str, get_args(kind)))})"
    return "(list: a,b or repeat the flag)" if _is_list(kind) else ""


def _comments(kind: type) -> Mapping[str, str]:
    """Return the comment behind each field in the source, which may stand lines below its name."""
    source = inspect.getsource(kind)
    pattern = r"^    (\w+): (?:[^#\n]|\n(?!    [\w#@]))*?  # (.*)$"
    return dict(re.findall(pattern, source, flags=re.MULTILINE))


class Recipe(NamedTuple):
    """A recipe with its changes, the command's own options, and the words to write them again."""

    config: Config
    options: Any
    name: str  # empty: none was named
    typed: str  # the changes of the recipe, as on a command line


def read_config(
    usage: str | None, options: Any, default: str, arguments: Sequence[str] | None = None
) -> Recipe:
    """Return the recipe that the command line names, with its changes, and the other options.

    A flag belongs to `options` (a dataclass, or None) where it has such a field, else to the
    recipe's config. A LaunchConfig starts from the cluster's profile. --help prints `usage`,
    recipes and fields, and ends the program; mistakes end it in one line.
    """
    own = [] if options is None else [Options(options, "Options:")]
    title = "Fields of the run, as --SECTION.FIELD=VALUE:"
    word = Word("RECIPE", least=0, choices=RECIPES)

    def line(recipe: str) -> CommandLine:
        return CommandLine(*own, Options(RECIPES[recipe](), title), words=[word])

    with one_line_errors():
        arguments = sys.argv[1:] if arguments is None else arguments
        words = line(default).parse(arguments).words
        name = words[0] if words and words[0] in RECIPES else ""
        about = recipe_lines("Recipes:", RECIPES)
        given = line(name or default).read(usage, arguments, about)
        config = given.config(len(own))
        if isinstance(options, LaunchConfig):
            options = profiled(given.changes[0].get("profile", options.profile))
        options = given.config(0, options) if own else None
    return Recipe(cast(Config, config), options, name, as_flags(given.changes[-1]))


def as_flags(changes: Mapping[str, Any]) -> str:
    """Return changes of a config as they are written on a command line."""
    flags = [f"--{name}={value}" for name, value in changes.items() if isinstance(value, str)]
    return shlex.join(flags)


def recipe_lines(title: str, recipes: Mapping[str, Any]) -> list[str]:
    """Return a line a recipe, for --help: its name and the first line of its docstring."""
    firsts = {
        name: (inspect.getdoc(recipe) or "").splitlines()[0] for name, recipe in recipes.items()
    }
    width = max(map(len, firsts))
    return ["", title, *(f"  {name:{width}} {first}" for name, first in firsts.items())]


def takes_colours(stream: TextIO) -> bool:
    """Return whether it is a terminal whose user has not asked for no colours (no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def stop(message: object) -> NoReturn:
    """End the program with one line on stderr and exit code 2.

    Of torchrun's ranks on a machine the first to end says why: the others end for that reason.
    """
    if _first_to_end():
        sys.stderr.write(shown(with_nearest(" ".join(str(message).split()))) + "\n")
    raise SystemExit(2)


def with_nearest(message: str) -> str:
    """Return an error on a path that is not there with the nearest path that is, for any command.

    Files and folders that the program itself looked for, and no argument names, stay as they are.
    """
    found = _ABSENT.search(message)
    if not found or "did you mean" in message:
        return message
    typed = found["path"]
    near = nearest_path(typed, folders=("shards", "runs"))
    if not near or not any(typed in argument for argument in sys.argv[1:]):
        return message
    rest = message[found.end() :].removeprefix("; ")
    return f"{message[: found.end()]}; did you mean {near}?" + (f" Else {rest}" if rest else "")


def shown(text: str) -> str:
    """Return a text for a terminal: control characters but new lines and tabs as \\x1b.

    Names of tensors, files and classes come from others.
    """
    return escaped(text, keep="\t\n")


class _Shown(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def log_lines(level: int = logging.INFO, *, force: bool = False) -> None:
    """Let messages of the package go to stderr, a line each, without control characters."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Shown("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=force)


def _first_to_end() -> bool:
    own = os.environ.get("TORCHELASTIC_ERROR_FILE")  # in a folder a rank, in one of this attempt
    if own is None:
        return True
    try:
        (Path(own).parents[1] / "said").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def in_words(error: Exception) -> str:
    """Return what an error of the user or the world says, in one line."""
    if not isinstance(error, OSError):
        return " ".join(str(error).split())
    what = error.strerror or str(error)
    return f"{error.filename or 'disk'}: {what}; {_FIXES.get(error.errno or 0, _TRY_AGAIN)}"


def is_mistake(error: BaseException) -> bool:
    """Return whether an error is told whole by its line: of this package's own, or of a disk.

    What libraries raise is not: their messages say little without the traceback.
    """
    if isinstance(error, OSError):
        return error.errno in _FIXES
    frames = list(traceback.walk_tb(error.__traceback__))
    raised_here = bool(frames) and frames[-1][0].f_code.co_filename.startswith(_PACKAGE)
    return raised_here and isinstance(error, ValueError | RuntimeError)


def _open_streams() -> None:
    """Have what a program prints go nowhere where its stdout or stderr was closed (>&-)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


_open_streams()


def _nobody_reads() -> bool:
    """Return whether stdout's reader has gone; what is still to be printed then goes nowhere."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in pipe.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors of the user (ValueError) and the world (RuntimeError, OSError) into one line.

    A reader of stdout that has gone, such as `head`, ends a command without a word.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise SystemExit(_BROKEN_PIPE) from None
        stop(in_words(error))
    except (ValueError, RuntimeError) as error:
        stop(error)
    except KeyboardInterrupt:
        stop("stopped; the same command begins again, or goes on from what is saved")
