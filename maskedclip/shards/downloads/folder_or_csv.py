"""A user's own images: a tree of folders, or image files with a CSV."""

import difflib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.captions import categories_of
from maskedclip.data.cell_values import is_missing, patient_of, whole_number
from maskedclip.data.class_names import joined_spellings, spelling_key
from maskedclip.data.label_kinds import SEPARATOR
from maskedclip.shards.downloads.answer_columns import (
    OF_ROWS,
    WHOLE_CELLS,
    Answer,
    in_one_row,
    labels_of_cells,
    labels_of_columns,
    numbers_of,
    one_class,
    refuse_numbers,
    refuse_several,
)
from maskedclip.shards.downloads.cards import DatasetCard
from maskedclip.shards.downloads.class_words import unused_words, words_of_classes
from maskedclip.shards.downloads.files import (
    ENDINGS,
    DownloadFiles,
    ending_of,
    list_files,
    remarks_on,
)
from maskedclip.shards.downloads.folder_names import (
    FolderSplits,
    folder_above,
    folder_classes,
    folder_splits,
    numbered_classes,
    outside_of_splits,
    plain_split,
    refuse_two_levels,
    refuse_unclear,
    split_of,
    splits_in_names,
)
from maskedclip.shards.downloads.image_names import ImageNames, Named
from maskedclip.shards.downloads.label_files import SURPLUS, Remarks, Row, cell, names_of, rows_of
from maskedclip.shards.downloads.masks import MASKS, photographs_below
from maskedclip.shards.downloads.missing_codes import without_codes
from maskedclip.shards.downloads.parallel_folders import parallel_folders, refusal_of
from maskedclip.shards.downloads.recognise import known_datasets, wrong_root
from maskedclip.shards.downloads.records import Record, Sources, eye_of, in_order, left_tasks
from maskedclip.shards.downloads.split_words import (
    columns_of_splits,
    split_column,
    with_splits,
)
from maskedclip.shards.downloads.text_cells import (
    on_reports,
    without_empty_findings,
    without_empty_reports,
)

_KEEP = "--keep_codes keeps them"
_LISTED = 8  # codes in a line
_SHOWN = 200  # rows that show what a column holds


def read_folder(
    card: DatasetCard, root: Path, classes: str, words: Mapping[str, str] | None = None
) -> Sources:
    """Return the records of a tree of images.

    Args:
        classes: a task; the folder that an image lies in is then its class. "" for no labels.
        words: of a class in captions, in place of those in its name.

    A folder of a split (train, Test_set, b. Testing Set) anywhere above the class is the split.
    Where there are classes, images beside such folders are left out: they would be of the training
    data, or classes. Raises ValueError where folders say a class and a split: glaucoma_train.
    """
    files, masks = photographs_below(card, root)
    splits = folder_splits(files.images)
    if classes:
        try:
            files.leave_out(_outside(files, splits))
        except ValueError as error:
            raise ValueError(f"--root {root}: {error}") from None
    again = parallel_folders(files.images, root)
    if again and classes:
        raise ValueError(f"--root {root}: {refusal_of(again)}")
    if not files.images:
        raise wrong_root(card, root, files)
    remarks: Remarks = {**remarks_on(files), "folders_taken_as_splits": set(splits.said)}
    remarks |= {MASKS: set(masks), "parallel_folders": set(again)}
    labels: dict[str, str] = {}
    if classes:
        labels = _labels_of_folders(root, files, splits.of, remarks)
    records = [
        Record(
            source,
            root / source,
            split=split_of(source.rpartition("/")[0], splits.of),
            labels={classes: labels[source]} if labels.get(source) else {},
        )
        for source in files.images
    ]
    if classes:
        if not splits.of:
            remarks["splits_in_file_names"] = set(splits_in_names(files.images))
        remarks["images_without_label"] = {r.source for r in records if not r.labels}
        remarks["classes_of_one_split_alone"] = _of_one_split(records, classes)
    names = {record.labels[classes] for record in records if record.labels}
    called = words_of_classes(names, classes, words)
    records = [
        record._replace(categories=called[record.labels[classes]]) if record.labels else record
        for record in records
    ]
    remarks["class_words_of_no_image"] = unused_words(words or {}, names)
    remarks["classes_that_differ_in_a_number"] = set(numbered_classes(names))
    remarks["only_one_class"] = names if len(names) == 1 else set()
    remarks["taken_as_one_class"] = {
        f"{name} (for several labels an image, write a table: make_shards.py csv)"
        for name in names
        if SEPARATOR in name
    }
    found = in_order(records, remarks | {"known_datasets": set(known_datasets(root, files))})
    return found._replace(words={classes: called}) if names else found


def _outside(files: DownloadFiles, splits: FolderSplits) -> list[str]:
    """Return the images beside the splits; ValueError where folders say a class and a split."""
    refuse_unclear(splits)
    return outside_of_splits(files.images, splits.of)


def _labels_of_folders(
    root: Path, files: DownloadFiles, splits: Mapping[str, str], remarks: Remarks
) -> dict[str, str]:
    """Return the class of every image by its folders, "" for none; what is said goes to remarks."""
    try:
        found = folder_classes(files.images, splits)
        refuse_two_levels(found.levels)
    except ValueError as error:
        raise ValueError(f"--root {root}: {error}") from None
    of = {source: found.of[source.rpartition("/")[0]] for source in files.images}
    class_of, joined = joined_spellings(name for name in of.values() if name)
    remarks["spellings_joined"] = set(joined)
    remarks["counts_in_names_of_classes"] = set(found.counts)
    remarks["folders_in_each_class"] = set(found.no_classes)
    remarks["pooled_folders_above_classes"] = set(found.above)
    remarks["classes_above_splits"] = set(found.over_splits)
    if not any(of.values()):
        known = known_datasets(root, files)
        hint = f" ({known[0]})" if known else ""
        raise ValueError(
            f"--root {root}: no image lies in the folder of a class, such as {min(of)}{hint}; "
            f"leave --classes out, or use make_shards.py csv with a table"
        )
    beside = {folder_above(folder, names[-1]) for folder, names in found.levels.items() if names}
    remarks["empty_class_folders"] = {f for f in files.empty if f.rpartition("/")[0] in beside}
    return {source: class_of.get(name, name) for source, name in of.items()}


def _of_one_split(records: Iterable[Record], task: str) -> set[str]:
    """Return a line for every class that only one of the published splits has."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.labels:
            splits[record.labels[task]].add(record.split or "train")
    several = len(set().union(*splits.values())) > 1
    return {f"{name}: {min(own)}" for name, own in splits.items() if several and len(own) == 1}


class Columns(NamedTuple):
    """The columns of a user's CSV; "" where it has none."""

    image: str
    label: str = ""
    task: str = ""
    patient: str = ""
    eye: str = ""
    split: str = ""
    report: str = ""
    categories: str = ""
    labels: tuple[str, ...] = ()  # of 0 and 1, a label each
    separator: str = ""  # between the labels of a cell of `label`
    number: str = ""
    number_task: str = ""
    keep_codes: bool = False  # -1, 999 and "unknown" are answers


class RowNames:
    """Which image a row names, with remarks on rows that name none or more than one."""

    def __init__(self, images: ImageNames, lost_zeros: bool, remarks: Remarks) -> None:
        """Take the images of the tree; `lost_zeros` as in `read_csv`."""
        self._images = images
        self._lost_zeros = lost_zeros
        self._remarks = remarks
        self.zeros = 0  # rows that name one image if they have lost their zeros

    def remark(self, kind: str, texts: Iterable[str]) -> None:
        """Add remarks of a kind."""
        self._remarks[kind].update(texts)

    def of_row(self, name: str, split: str) -> Named:
        """Return the image of a name; an empty result where it names none."""
        if is_missing(name):
            self._remarks["rows_that_name_no_image"].add(name or "an empty name")
            return Named()
        named = self._images.named(name, split)
        if named.unclear:
            self._remarks["names_of_several_images"].update(named.unclear)
        elif named.elsewhere:
            self._remarks["images_in_another_folder"].add(f"{name}: {named.image}")
        elif not named.image:
            padded = self._images.with_zeros(name, split)
            self.zeros += bool(padded.image)
            if padded.image and self._lost_zeros:
                self._remarks["zeros_put_back"].add(f"{name}: {padded.image}")
                return padded
            offer = f" ({padded.image} with --lost_zeros)" if padded.image else ""
            self._remarks["labels_without_image"].add(name + offer)
        return named


def read_csv(
    card: DatasetCard,
    root: Path,
    file: Path,
    columns: Columns,
    *,
    lost_zeros: bool = False,
    words: Mapping[str, str] | None = None,
) -> Sources:
    """Return the records of a user's CSV.

    Args:
        words: of a class in captions, in place of those in its name.
        lost_zeros: take "1" for 001 where only one image has that number.

    An image whose rows disagree, or whose name several images have, is left out by name. Raises
    ValueError for a missing column, and for a table that names no image or no class.
    """
    remarks: Remarks = defaultdict(set)
    rows, columns, coded = _rows_to_read(file, columns, remarks)
    files = list_files(card, root)
    if not files.images:
        raise wrong_root(card, root, files)
    try:
        answers = _answers(rows, columns, words or {}, remarks)
    except ValueError as error:
        raise ValueError(f"--csv {file}: {error}") from None
    images = ImageNames(files.images, root)
    names = RowNames(images, lost_zeros, remarks)
    remarks["columns_that_name_further_images"] = _further_images(rows, columns.image, images)
    found, unclear, copies = _by_image(rows, columns, names, answers, root, coded)
    remarks["images_that_left_a_task"] = _with_codes(remarks, columns)
    remarks["images_with_two_rows"] = unclear - remarks["names_of_several_images"]
    if columns.label and not columns.separator and remarks["images_with_two_rows"]:
        more = len(rows) - len(in_one_row(rows, columns.label))
        remarks["rows_that_differ_in_their_label"] = (
            {f"{more} (labels of one image with --label_separator={OF_ROWS})"} if more else set()
        )
    if not found:
        raise _names_no_image(file, root, rows, columns.image, names, files.images)
    records = [record for source, record in found.items() if source not in unclear]
    if not records:
        raise ValueError(
            f"{file}: every image that it names is unclear, such as {min(unclear)}: two rows "
            f"disagree, or several images have that name; write a row an image, with its path"
        )
    remarks["images_without_label"] = files.images.keys() - found.keys() - unclear - copies
    remarks["unclear_images_left_out"] = unclear
    remarks["repeated_names"] = copies - found.keys()
    remarks |= remarks_on(files)
    if not columns.split:
        remarks["folders_of_splits_not_taken"] = _splits_not_taken(found)
        used = [columns.image, columns.label, *columns.labels, columns.report, columns.categories]
        remarks["columns_that_look_like_splits"] = columns_of_splits(rows, used)
    remarks["known_datasets"] = set(known_datasets(root, files))
    return _with_tasks(in_order(records, remarks), answers)


def _splits_not_taken(sources: Iterable[str]) -> set[str]:
    """Return the folders that are called as splits are: of a table a column alone says splits."""
    folders = {part for source in sources for part in source.split("/")[:-1]}
    said = {folder: plain_split(folder) for folder in folders if plain_split(folder)}
    if "test" not in said.values():
        return set()
    return {
        f"{folder} is called as {split} is (a column of splits and --split_column take them)"
        for folder, split in said.items()
    }


def _rows_to_read(
    file: Path, columns: Columns, remarks: Remarks
) -> tuple[list[Row], Columns, set[tuple[str, str]]]:
    """Return the rows with codes, splits and rows of labels in one form, and their columns.

    And the pairs of a task and the name of an image whose cell is a code.
    """
    split, words_of_splits = split_column(columns.split)
    columns = columns._replace(split=split)
    rows = _whole_rows(_rows_with_columns(file, columns), file, columns, remarks)
    rows, coded = _without_codes(rows, columns, remarks)
    if columns.split:
        every = len(rows)
        rows = with_splits(rows, columns.split, words_of_splits)
        if every > len(rows):
            left = f"{every - len(rows)} of {every} (--split_column has their word as none)"
            remarks["rows_that_take_no_part"] = {left}
    if columns.separator == OF_ROWS:
        rows = in_one_row(rows, columns.label)
    remarks["patients_unknown"] = _nobodies(rows, columns.patient)
    remarks["patients_spelt_in_two_ways"] = _spelt_twice(rows, columns.patient)
    remarks["eyes_unknown"] = _unknown_eyes(rows, columns.eye)
    return rows, columns, coded


def _with_tasks(found: Sources, answers: Iterable[Answer]) -> Sources:
    """Return the records with what is known of their tasks."""
    tasks = {task for record in found.records for task in record.labels}
    answered = sorted((answer for answer in answers if answer.task in tasks), key=lambda a: a.task)
    return found._replace(
        kinds={answer.task: answer.kind for answer in answered if answer.kind != "class"},
        classes={answer.task: answer.classes for answer in answered if answer.kind == "labels"},
        words={answer.task: dict(answer.words) for answer in answered if answer.kind != "number"},
    )


def _answers(
    rows: list[Row], columns: Columns, words: Mapping[str, str], remarks: Remarks
) -> list[Answer]:
    """Return what the columns answer of an image; ValueError where they answer nothing."""
    answers = []
    if columns.labels:
        answers.append(labels_of_columns(rows, columns.labels, columns.task, remarks))
    elif columns.separator and columns.separator != WHOLE_CELLS:
        facts = columns.label, columns.separator, columns.task
        answers.append(labels_of_cells(rows, *facts, remarks))
    elif columns.label:
        if not columns.separator:
            refuse_several(rows, columns.label, remarks)
            refuse_numbers(rows, columns.label)
        answers.append(one_class(rows, columns.label, columns.task, remarks))
    answers = [a._replace(words=words_of_classes(a.classes, a.task, words)) for a in answers]
    named = [name for answer in answers for name in answer.classes]
    remarks["class_words_of_no_image"] = unused_words(words, named)
    if columns.number:
        answers.append(numbers_of(rows, columns.number, columns.number_task, remarks))
    return answers


def _by_image(
    rows: list[Row], columns: Columns, names: RowNames, answers: list[Answer], root: Path,
    coded: Collection[tuple[str, str]],
) -> tuple[dict[str, Record], set[str], set[str]]:  # fmt: skip
    """Return the records by image, the images that are unclear, and copies of images.

    Args:
        coded: tasks and names of images whose cell is a code.
    """
    found: dict[str, Record] = {}
    unclear: set[str] = set()
    copies: set[str] = set()
    lacking: defaultdict[str, dict[str, str]] = defaultdict(dict)  # of an image, by task
    by_code: set[tuple[str, str]] = set()  # tasks, and images that a code keeps from them
    for row in rows:
        record = _record_of_row(columns, row, root, answers)
        named = names.of_row(cell(row, columns.image), record.split or "")
        unclear.update(named.unclear)
        copies.update(named.copies)
        if named.image:
            record = record._replace(source=named.image, path=root / named.image)
            together = _together(found.setdefault(named.image, record), record)
            if together is None:
                unclear.add(named.image)
            else:
                found[named.image] = together
            for answer in answers:
                if answer.task not in record.labels:
                    lacking[named.image][answer.task] = answer.lacking(row)
                    if (answer.task, cell(row, columns.image)) in coded:
                        by_code.add((answer.task, named.image))
    left = [
        (task, f"{source}: {column}", (task, source) in by_code)
        for source, columns_of in lacking.items()
        if source not in unclear
        for task, column in columns_of.items()
        if task not in found[source].labels
    ]
    of_classes = {answer.task for answer in answers if answer.kind == "class"}
    empty = (image for task, image, _ in left if task not in of_classes)  # which classes say alone
    names.remark("images_with_an_empty_label", empty)
    of_numbers = {answer.task for answer in answers if answer.kind == "number"}
    names.remark("images_that_left_a_task", left_tasks(left, of_numbers))
    return found, unclear, copies


def _rows_with_columns(file: Path, columns: Columns) -> list[Row]:
    """Return the rows of a table; ValueError where it lacks a column or has one twice."""
    if not file.is_file():
        raise ValueError(f"--csv {file}: no such file; give the table of labels")
    flags = {
        f"--{flag}_column {name!r}": name
        for flag, name in columns._asdict().items()
        if name and flag not in ("task", "labels", "separator", "number_task", "keep_codes")
    } | {f"--label_columns: {name!r}": name for name in columns.labels}
    rows, lacking = rows_of(file, list(flags.values()), once=True)
    if not lacking:
        if not rows:
            raise ValueError(f"--csv {file}: a heading and no row below it; give a whole table")
        return rows
    present = lacking.partition("; it has ")[2].split(", ")
    for flag, name in flags.items() if any(present) else ():
        if names_of(name)[0] not in names_of(present):
            titles = dict(zip(names_of(present), present, strict=True))
            near = difflib.get_close_matches(name.lower(), titles, n=1)
            meant = f"did you mean {titles[near[0]]}? It has" if near else "it has"
            first = [title for title in present if ending_of(title) in ENDINGS]
            hint = f"; is its heading missing? {first[0]} is an image" if first else ""
            raise ValueError(f"{flag} is not in {file}; {meant} {', '.join(present)}{hint}")
    raise ValueError(f"--csv {file}: {lacking}")


def _whole_rows(rows: list[Row], file: Path, columns: Columns, remarks: Remarks) -> list[Row]:
    """Return the rows without those that have more cells than the heading: theirs have shifted."""
    whole = [row for row in rows if SURPLUS not in row]
    if not whole:
        raise ValueError(
            f"--csv {file}: each row has more cells than the heading; is a comma of a text not in "
            f"quotes, or a title missing?"
        )
    if len(whole) < len(rows):
        shifted = f"{file.name}: {len(rows) - len(whole)} rows"
        remarks["rows_longer_than_the_heading"].add(shifted)
    single = [columns.image, columns.label, columns.patient, columns.eye, columns.split]
    single += [*columns.labels, columns.number]
    for row in whole:
        for name in filter(None, single):
            if len(cell(row, name).splitlines()) > 1:
                raise ValueError(
                    f"--csv {file}: a line break inside of a cell of {name}, "
                    f"{cell(row, name)[:40]!r}; close the quote that is open there"
                )
    return whole


def _columns_of_tasks(columns: Columns) -> list[tuple[str, str, str]]:
    """Return the columns that answer tasks: the task, the column, and what it answers."""
    kinds = [(columns.task, name, "labels") for name in columns.labels]
    kinds.append((columns.number_task, columns.number, "number"))
    kinds.append((columns.task, columns.label, "class"))
    return [(task, name, kind) for task, name, kind in kinds if name]


def _without_codes(
    rows: list[Row], columns: Columns, remarks: Remarks
) -> tuple[list[Row], set[tuple[str, str]]]:
    """Return the rows with empty cells in place of codes (-1, 999), with remarks.

    And the pairs of a task and the name of an image whose cell is a code.
    """
    kinds = [] if columns.keep_codes else _columns_of_tasks(columns)
    coded: set[tuple[str, str]] = set()
    for task, name, kind in [("", columns.patient, "patient")] * bool(columns.patient) + kinds:
        sign = "" if columns.separator in (OF_ROWS, WHOLE_CELLS) else columns.separator
        before = rows
        rows, lines = without_codes(rows, name, kind, sign if kind == "class" else "")
        remarks["codes_taken_for_empty_cells"].update(lines)
        changed = (new for old, new in zip(before, rows, strict=True) if new is not old)
        coded |= {(task, cell(row, columns.image)) for row in changed if task}
    if columns.report:
        rows, lines = without_empty_reports(rows, columns.report)
        remarks["texts_that_are_no_caption"].update(lines)
        remarks |= on_reports(row.get(names_of(columns.report)[0], "") for row in rows)
    if columns.categories:
        rows, lines = without_empty_findings(rows, columns.categories)
        remarks["texts_that_are_no_caption"].update(lines)
    return rows, coded


def _with_codes(remarks: Remarks, columns: Columns) -> set[str]:
    """Return the remarks on tasks that images left, each with all codes taken for empty cells."""
    lines = set()
    for line in remarks["images_that_left_a_task"]:
        own = line.partition(":")[0]
        named = tuple(f"{name} " for task, name, _ in _columns_of_tasks(columns) if task == own)
        codes = [c for c in sorted(remarks["codes_taken_for_empty_cells"]) if c.startswith(named)]
        more = f" and {len(codes) - _LISTED} more" if codes[_LISTED:] else ""
        taken = f"; taken for empty ({_KEEP}): {'; '.join(codes[:_LISTED])}{more}" if codes else ""
        lines.add(line + taken)
    return lines


def _names_no_image(
    file: Path, root: Path, rows: list[Row], column: str, names: RowNames, images: Iterable[str]
) -> ValueError:
    where = f"--csv {file}: no row names one image under {root}"
    example = f"{cell(rows[0], column)!r} of {column}, but {min(images)}"
    if names.zeros:
        fix = f"{names.zeros} of {len(rows)} rows fit with leading zeros: add --lost_zeros"
    else:
        fix = "give the column of the file names, and of names that repeat write the folder too"
    return ValueError(f"{where} (such as {example}); {fix}")


def _together(one: Record, other: Record) -> Record | None:
    """Return what two rows of an image state together; None where they disagree."""
    stated = {name: value for name, value in other._asdict().items() if value}
    if any(value and stated.get(name, value) != value for name, value in one._asdict().items()):
        return None
    return one._replace(**stated)


def _nobodies(rows: list[Row], column: str) -> set[str]:
    """Return a line for every word of the patients' column that is no patient."""
    written = [cell(row, column) for row in rows] if column else []
    words = Counter(word for word in written if word and patient_of(word) is None)
    if "" in written and any(map(patient_of, written)):  # below it, in some tables, the same one
        words["an empty cell (write the patient into each row)"] = written.count("")
    return {f"{word}: {count} rows" for word, count in words.items()}


def _spelt_twice(rows: list[Row], column: str) -> set[str]:
    """Return a line on patients that may be one, 01 and 1, P1 and p1: without their names."""
    written = {whole_number(cell(row, column)) for row in rows} if column else set()
    spellings = Counter(spelling_key(word) for word in written if patient_of(word))
    twice = sum(number > 1 for number in spellings.values())
    apart = "differ in case or zeros alone: kept apart; write each patient in one way"
    return {f"{twice} pairs of patients {apart}"} if twice else set()


def _unknown_eyes(rows: list[Row], column: str) -> set[str]:
    """Return a line for every word of the eyes' column that is neither left nor right."""
    words = Counter(cell(row, column) for row in rows) if column else Counter()
    return {
        f"{word} (write L or R): {count} rows"
        for word, count in words.items()
        if not is_missing(word) and eye_of(word) is None
    }


def _further_images(rows: list[Row], column: str, images: ImageNames) -> set[str]:
    """Return a line for every other column whose cells name images: a row may be of both eyes."""
    shown = rows[:_SHOWN]
    lines = set()
    for name in {name for row in shown for name in row} - {*names_of(column), SURPLUS}:
        cells = [(text, cell(row, column)) for row in shown if (text := cell(row, name))]
        named = [
            (text, images.named(text).image, own) for text, own in cells if not text.isdecimal()
        ]
        further = [text for text, image, own in named if image not in ("", images.named(own).image)]
        if 2 * len(further) > len(cells):
            lines.add(
                f"{name} ({further[0]}): they get no label of their row, which may be one of both "
                f"eyes; write a row an image"
            )
    return lines


def _record_of_row(columns: Columns, row: Row, root: Path, answers: list[Answer]) -> Record:
    """Return what a row states, of an image that is not known yet."""

    def of(column: str) -> str:
        text = cell(row, column) if column else ""
        return "" if is_missing(text) else text

    texts = {a.task: text for a in answers if (text := a.text_of(row)) is not None}
    said = (a.categories_in(texts[a.task]) for a in answers if a.task in texts)
    named = dict.fromkeys(word for words in said for word in words)
    findings = of(columns.categories)
    categories = [word for word in categories_of(findings) if not is_missing(word)]
    return Record(
        source="",
        path=root,
        patient=patient_of(whole_number(of(columns.patient))),
        eye=eye_of(of(columns.eye)),
        split=of(columns.split) or None,
        labels=texts,
        categories=tuple(categories if findings else named),
        report=" ".join(of(columns.report).split()) or None,
    )
