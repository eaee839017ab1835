"""Every card on its dataset's download in miniature: tests/downloads says what is to be found."""

import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from maskedclip.data.storage.shards import Shards
from maskedclip.shards import make as make_shards
from maskedclip.shards.downloads.cards import card_names, read_card
from maskedclip.shards.downloads.files import ENDINGS
from maskedclip.shards.downloads.records import Sources
from maskedclip.shards.make import ShardRequest
from tests.downloads import FORMS, Expected, Facts, WrongRoot, build, wrong_root

SIMILAR = ("aptos2019_retfound", "idrid_retfound", "messidor2_retfound")  # folders of one name
WITHOUT_A_DOWNLOAD = {"csv", "folder", "phantom"}
ABOVE = ("unpacked", "My downloads", "v1.0", "Ch\u00e1k\u1e63u & Co")
TABLES = (".csv", ".xlsx", ".json")
WITH_TABLES = [
    form
    for form in FORMS
    if form.startswith(
        (
            "eyepacs",
            "odir5k",
            "airogs",
            "deepdrid",
            "drishti",
            "refuge",
            "chaksu",
            "sustech",
            "aptos2019",
            "idrid",
            "messidor2",
            "origa",
            "rfmid",
        )
    )
    and not form.endswith("retfound")
]
Found = Callable[[str], tuple[Path, Expected, Sources]]
every_form = pytest.mark.parametrize("form", FORMS)


def read(card: str, root: Path) -> Sources:
    return make_shards._sources(ShardRequest(dataset=card, root=root), read_card(card))


def facts_of(sources: Sources) -> dict[str, Facts]:
    return {record.source: Facts(*record[2:]) for record in sources.records}


def files_of(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def images_of(root: Path) -> list[str]:
    return [name for name in files_of(root) if Path(name).suffix.lower() in ENDINGS]


def tables_of(root: Path) -> list[str]:
    return [name for name in files_of(root) if Path(name).suffix in TABLES]


def is_junk(source: str) -> bool:
    return Path(source).name.startswith("._")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What was written of a form, what is to be found there, and what has been."""

    @cache
    def once(form: str) -> tuple[Path, Expected, Sources]:
        root = tmp_path_factory.mktemp(form)
        expected = build(form, root)
        return root, expected, read(FORMS[form], root)

    return once


@every_form
def test_every_image_says_what_the_dataset_says_of_it(form: str, found: Found) -> None:
    _, expected, sources = found(form)
    assert facts_of(sources) == expected.samples
    assert len(sources.records) == len(expected.samples)


@every_form
def test_labels_and_images_that_do_not_meet_are_named(form: str, found: Found) -> None:
    _, expected, sources = found(form)
    named = sorted(text.lower() for text in sources.remarks.get("labels_without_image", []))
    wanted = sorted(stem.lower() for stem in expected.labels_without_image)
    assert len(named) == len(wanted)
    assert all(stem in text for stem, text in zip(wanted, named, strict=True)), named
    unlabelled = sources.remarks.get("images_without_label", [])
    assert sorted(unlabelled) == sorted(expected.images_without_label)


@every_form
def test_a_build_accounts_for_every_image_file(form: str, found: Found, tmp_path: Path) -> None:
    root, expected, sources = found(form)
    request = ShardRequest(dataset=FORMS[form], root=root, out=tmp_path / "out", size=64, workers=1)
    manifest = make_shards.build(request, progress=False).manifest
    shards = Shards(tmp_path / "out")
    samples = [shards.metadata(number)["source"] for number in range(len(shards))]
    rejected = {entry["source"]: entry["reason"] for entry in manifest["rejected"]}
    assert sorted([*samples, *rejected]) == sorted(expected.samples)
    assert rejected.keys() == set(expected.unreadable)
    assert all(rejected.values())
    counted = ("patients_in_several_splits", "patients_from_names")  # of all records, by the build
    remarks = {name: own for name, own in manifest["remarks"].items() if name not in counted}
    assert remarks == sources.remarks
    rest = set(images_of(root)).difference(samples, rejected)
    assert {name for name in rest if not is_junk(name)} == set(expected.ignored)
    assert unaccounted(rest, manifest["remarks"]) == []


def unaccounted(images: set[str], remarks: dict[str, list[str]]) -> list[str]:
    """Return the images that no remark names, and that no "FOLDER: N images" can have counted."""
    texts = {text for remark in remarks.values() for text in remark}
    counted = {
        m[1]: int(m[2]) for m in (re.fullmatch("(.*): ([0-9]+) images", t) for t in texts) if m
    }
    left = images - texts
    for folder in sorted(counted, key=len, reverse=True):
        inside = {name for name in left if folder == "." or name.startswith(f"{folder}/")}
        assert len(inside) == counted[folder], folder
        left -= inside
    return sorted(left)


@every_form
def test_the_case_of_endings_changes_nothing(form: str, tmp_path: Path) -> None:
    for seed in range(2):
        root = tmp_path / str(seed)
        expected = build(form, root)
        chance = random.Random(f"{form} {seed}")
        for name in files_of(root):
            path = root / name
            if seed == 0 or chance.random() < 0.5:  # all of them, then any
                path.rename(path.with_suffix(path.suffix.swapcase()))
        found = {
            source.lower(): facts for source, facts in facts_of(read(FORMS[form], root)).items()
        }
        assert found == {source.lower(): facts for source, facts in expected.samples.items()}


@every_form
def test_a_folder_more_above_and_junk_beside_tables_change_nothing(
    form: str, tmp_path: Path
) -> None:
    above = random.Random(form).choice(ABOVE)
    expected = build(form, tmp_path / above)
    for table in map(tmp_path.joinpath, tables_of(tmp_path)):
        office = (f"~${table.name}",) if table.suffix == ".xlsx" else ()
        for name in (*office, f"._{table.name}", f".~lock.{table.name}#"):
            table.with_name(name).write_bytes(b"\x05owner\xff")
    found = facts_of(read(FORMS[form], tmp_path))
    assert found == {f"{above}/{source}": facts for source, facts in expected.samples.items()}


@pytest.mark.parametrize("form", WITH_TABLES)
def test_a_table_cut_short_costs_no_label_that_is_not_named(form: str, tmp_path: Path) -> None:
    chance = random.Random(form)
    for cut in ("one", "two"):
        root = tmp_path / cut
        expected = build(form, root)
        table = root / chance.choice(tables_of(root))
        content = table.read_bytes()
        table.write_bytes(content[: chance.randrange(len(content))])
        sources, message = read_or_message(FORMS[form], root)
        if message:
            assert str(root) in message
            assert "\n" not in message
        named = " ".join(text for remark in sources.remarks.values() for text in remark)
        for source, facts in facts_of(sources).items():
            wanted = expected.samples[source].labels
            assert facts.labels.items() <= wanted.items(), source
            assert facts.labels or not wanted or Path(source).stem in named, source


def read_or_message(card: str, root: Path) -> tuple[Sources, str]:
    try:
        return read(card, root), ""
    except ValueError as error:
        return Sources([], {}), str(error)


def test_a_wrong_root_is_told_in_one_line_what_is_missing_and_what_is_there(
    tmp_path: Path,
) -> None:
    def message_of(wrong: WrongRoot) -> str:
        with pytest.raises(ValueError, match=wrong.root.name) as raised:
            read(wrong.card, wrong.root)
        return str(raised.value)

    for wrong in wrong_root(tmp_path):
        message = message_of(wrong)
        assert "\n" not in message
        for word in wrong.words:
            assert word.lower() in message.lower(), message


@pytest.mark.parametrize("card", sorted(set(FORMS.values())))
def test_a_card_refuses_the_download_of_another_dataset(card: str, found: Found) -> None:
    first = {dataset: form for form, dataset in reversed(FORMS.items())}
    others = [form for dataset, form in first.items() if dataset != card]
    others += [form for form in SIMILAR if FORMS[form] != card]
    for form in others:
        with pytest.raises(ValueError, match=re.escape(str(found(form)[0]))) as raised:
            pytest.fail(f"{card} takes {form} for its own: {read(card, found(form)[0])}")
        assert "\n" not in str(raised.value)


def test_a_download_in_miniature_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    for form in FORMS:
        written = []
        for time in ("once", "again"):
            root = tmp_path / time / form
            build(form, root)
            written.append({name: (root / name).read_bytes() for name in files_of(root)})
        assert written[0] == written[1], form
        pictures = [content for name, content in written[0].items() if not is_junk(name)]
        assert len(pictures) > 2


def test_every_card_with_a_download_is_tried_on_one() -> None:
    assert set(card_names()) - WITHOUT_A_DOWNLOAD == set(FORMS.values())
