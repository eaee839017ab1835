"""Small numbers of a plan are not printed as zeros."""

import re

import pytest

from maskedclip.config import override
from maskedclip.plan.cost import plan, report
from maskedclip.plan.finetuning import FinetuneMemory
from maskedclip.plan.units import in_bytes, in_column, in_count, in_time, in_weight
from maskedclip.recipes import demo


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (in_bytes(62.668e9), "62.7 GB"),
        (in_bytes(1.234e9), "1.23 GB"),
        (in_bytes(999e6), "999.0 MB"),
        (in_bytes(820), "820.0 bytes"),
        (in_bytes(0), "0 bytes"),
        (in_count(303_100_000), "303.1 M"),
        (in_count(965), "965.0"),
        (in_count(5130), "5.13 k"),
        (in_time(26.1 * 3600), "26.1 hours"),
        (in_time(90), "1.50 minutes"),
        (in_time(0.014), "14.0 ms"),
        (in_weight(130), "130.0 g"),
        (in_column(0), "0.00"),
        (in_column(1e-6), "<0.01"),
        (in_column(12.345), "12.35"),
    ],
)
def test_a_number_is_in_the_unit_that_fits(words: str, expected: str) -> None:
    assert words == expected


def test_a_head_alone_trains_thousands_and_not_0_00_millions() -> None:
    small = FinetuneMemory(22_000_000, 1925, 176_000_000, 7_700, 15_400, 4_000)
    said = str(small)
    assert said.startswith("1.93 k of 22.0 M parameters are trained; ")
    assert "planned memory of a GPU: 176.0 MB at most" in said
    assert "gradients 7.70 kB" in said
    assert not re.search(r"\b0\.0+\b", said)


def test_the_plan_of_a_micro_model_has_no_zero_where_there_is_something() -> None:
    planned = plan(override(demo(), {"optim.steps": 20}), nodes=1, gpus=1, gpu="a100-80")
    rows = [
        line
        for line in report(planned).splitlines()
        if re.match(r"  (a step|time|CO2e |a ch)", line)
    ]
    assert len(rows) == 4
    assert not [row for row in rows if re.search(r"(?<![\d.])0\.?0* (?!GPU-hours)", row)], rows
