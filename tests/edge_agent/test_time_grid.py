"""When a reply leaves: at points that do not tell how long its answer took."""

from __future__ import annotations

import pytest

from edge_agent.learner.time_grid import FIRST_S, TimeGrid, point_after

pytestmark = pytest.mark.edge


class Watch:
    """A clock that moves when somebody works or sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def work(self, seconds: float) -> None:
        self.now += seconds

    def reply_after(self, grid: TimeGrid, seconds: float, kind: str = "train.fit") -> float:
        started = self.now
        with grid.on_time(kind):
            self.work(seconds)
        return self.now - started


def grid_of(watch: Watch) -> TimeGrid:
    return TimeGrid(lambda: watch.now, watch.work)


def test_short_answers_all_leave_at_the_first_point() -> None:
    watch = Watch()
    grid = grid_of(watch)
    assert {round(watch.reply_after(grid, took), 9) for took in (0.0, 0.01, 0.02, 0.024)} == {FIRST_S}


def test_answers_that_differ_a_little_leave_after_the_same_time() -> None:
    watch = Watch()
    grid = grid_of(watch)
    times = {round(watch.reply_after(grid, took), 9) for took in (1.0, 0.9, 1.02, 0.7, 0.001)}
    assert times == {round(point_after(1.0), 9)}


def test_an_answer_is_held_back_by_a_fourth_of_its_time_at_most() -> None:
    for thousandth in range(100, 5000, 7):
        watch = Watch()
        took = thousandth / 1000
        assert took <= watch.reply_after(grid_of(watch), took) <= 1.25 * took + 1e-9


def test_kinds_of_questions_do_not_hold_each_other_back() -> None:
    watch = Watch()
    grid = grid_of(watch)
    watch.reply_after(grid, 3.0, "evaluate.curve")
    assert watch.reply_after(grid, 0.01, "train.fit") == pytest.approx(FIRST_S)


def test_a_machine_that_was_held_up_is_on_time_again_after_a_few_answers() -> None:
    watch = Watch()
    grid = grid_of(watch)
    watch.reply_after(grid, 60.0)
    assert watch.reply_after(grid, 0.01) > 60.0
    for _ in range(8):
        last = watch.reply_after(grid, 0.01)
    assert last == pytest.approx(FIRST_S)


def test_a_failure_leaves_on_time_too() -> None:
    watch = Watch()
    grid = grid_of(watch)
    with pytest.raises(MemoryError), grid.on_time("train.fit"):
        raise MemoryError
    assert watch.now == pytest.approx(FIRST_S)
