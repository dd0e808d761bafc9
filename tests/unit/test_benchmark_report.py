"""The benchmarks' table says what the samples say."""

from __future__ import annotations

import pytest

from benchmarks import figures
from benchmarks.figures import AIMS, Aim
from benchmarks.report import Report, aims, cell, markdown, number, reached


def test_a_cell_has_the_median_and_how_far_the_rounds_lie_apart() -> None:
    assert cell([3.0, 1.0, 2.0]) == "2 (1..3)"
    assert cell([2.0]) == "2"
    assert cell([]) == "-"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.1234, "0.123"), (99.96, "100"), (1234.5, "1,234"), (123456.0, "123k"), (1.65e6, "1.65M")],
)
def test_a_number_has_as_many_digits_as_say_something(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_peer_that_failed_is_named_and_the_table_has_the_others() -> None:
    report = Report("today", ["floor", "ray", "dayfly"])
    report.add("floor", {figures.CALL: 0.1})
    report.add("dayfly", {figures.CALL: 2.0})
    report.remark("ray", "cannot be installed: no wheel")
    report.remark("ray", "cannot be installed: no wheel, again")
    lines = markdown(report).splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {figures.CALL}")]
    assert [part.strip() for part in line.split("|")[2:5]] == ["0.1", "-", "2"]
    assert line.split("|")[5].strip() == "20x"
    assert lines.count("* ray: cannot be installed: no wheel") == 1


def test_an_aim_is_judged_by_the_medians_of_both_peers() -> None:
    medians = {figures.CALL: {"dayfly": 1.2, "tunnel": 0.5}}
    met = {line[0]: (line[1], line[3]) for line in aims(medians)}
    assert met == {f"{figures.CALL} / tunnel": ("2.4x", "yes")}


def test_an_aim_without_one_of_its_figures_is_not_judged() -> None:
    medians = {figures.calls(10_000): {"dayfly": 100_000.0}}
    assert list(aims(medians)) == []


def test_an_aim_over_another_figure_of_dayfly_takes_that() -> None:
    aim = Aim(figures.CALL_P99, over=figures.CALL, peer="dayfly", most=5)
    assert reached(aim, {figures.CALL: {"dayfly": 2.0}, figures.CALL_P99: {"dayfly": 8.0}}) == 4
    assert aim.met(4)
    assert not aim.met(5.1)


def test_a_slow_peer_is_spared_what_would_take_minutes() -> None:
    assert "782 no-op calls/s" in figures.too_slow("calls_100k", 782)
    assert not figures.too_slow("calls_10k", 782)
    assert not figures.too_slow("warm_call", 1)


def test_the_tunnel_has_one_call_and_storage_is_dayflys_alone() -> None:
    assert figures.has("tunnel", "warm_call")
    assert not figures.has("tunnel", "calls_1k")
    assert figures.has("dayfly", "storage")
    assert not figures.has("ray", "storage")


def test_every_aim_speaks_of_a_figure_in_the_table() -> None:
    assert {aim.figure for aim in AIMS} | {aim.over for aim in AIMS} <= {*figures.ORDER, ""}
