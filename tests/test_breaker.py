"""The breaker's states, by a clock that the tests move."""

from __future__ import annotations

import pytest

from gmpy_rt.breaker import Breaker, Rules


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Fixture:
    def __init__(self, **rules: float) -> None:
        self.clock = Clock()
        self.breaker = Breaker(Rules(**rules), self.clock)  # type: ignore[arg-type]

    def samples(self, *bad: bool) -> None:
        for one in bad:
            self.breaker.sample(one)

    def opened(self) -> Breaker:
        self.samples(True, True, True)
        assert self.breaker.state == "open"
        return self.breaker

    def half_open(self) -> Breaker:
        self.opened()
        self.clock.now += self.breaker.rules.open_seconds
        assert self.breaker.state == "half-open"
        return self.breaker

    def trial(self, ok: bool | None) -> None:
        admitted = self.breaker.admit()
        assert admitted is not None
        self.breaker.done(admitted, ok)


def test_closed_breaker_admits_everything_whatever_becomes_of_it() -> None:
    fixture = Fixture()
    for _ in range(100):
        fixture.trial(False)
    assert fixture.breaker.state == "closed"


def test_opens_after_three_bad_samples_in_a_row_only() -> None:
    fixture = Fixture()
    fixture.samples(True, True, False, True, True)
    assert fixture.breaker.state == "closed"
    fixture.samples(True)
    assert fixture.breaker.state == "open"
    assert fixture.breaker.opened == 1


def test_open_breaker_admits_nothing_for_thirty_seconds() -> None:
    fixture = Fixture()
    breaker = fixture.opened()
    assert breaker.admit() is None
    assert breaker.retry_after == 30.0
    fixture.clock.now += 29.999
    assert breaker.state == "open"
    assert breaker.admit() is None
    assert breaker.retry_after == pytest.approx(0.001)
    fixture.clock.now += 0.001
    assert breaker.state == "half-open"
    assert breaker.retry_after == 0.0


def test_samples_while_open_change_nothing() -> None:
    fixture = Fixture()
    breaker = fixture.opened()
    fixture.clock.now += 20
    fixture.samples(True, True, True, False)
    assert breaker.retry_after == pytest.approx(10.0)
    assert breaker.opened == 1


def test_half_open_begins_with_one_trial_and_adds_one_for_each_success() -> None:
    breaker = Fixture().half_open()
    first = breaker.admit()
    assert first is not None
    assert breaker.admit() is None
    breaker.done(first, True)
    second, third = breaker.admit(), breaker.admit()
    assert second is not None
    assert third is not None
    assert breaker.admit() is None


def test_closes_at_95_percent_of_the_last_20_trials() -> None:
    fixture = Fixture()
    breaker = fixture.half_open()
    fixture.trial(False)
    for _ in range(18):
        fixture.trial(True)
        assert breaker.state == "half-open"
    fixture.trial(True)
    assert breaker.state == "closed"


def test_stays_half_open_below_95_percent_until_the_failures_are_old() -> None:
    fixture = Fixture()
    breaker = fixture.half_open()
    for ok in [False, False] + [True] * 18:
        fixture.trial(ok)
    assert breaker.state == "half-open"  # 90 %
    fixture.trial(True)
    assert breaker.state == "closed"  # the first failure isn't among the last 20


def test_three_failures_running_open_it_again() -> None:
    fixture = Fixture()
    breaker = fixture.half_open()
    for ok in (False, False, True, False, False):
        fixture.trial(ok)
    assert breaker.state == "half-open"
    fixture.trial(False)
    assert breaker.state == "open"
    assert breaker.retry_after == 30.0
    assert breaker.opened == 2


def test_bad_samples_open_a_half_open_breaker_again() -> None:
    fixture = Fixture()
    breaker = fixture.half_open()
    fixture.samples(True, True)
    assert breaker.state == "half-open"
    fixture.samples(True)
    assert breaker.state == "open"


def test_result_of_an_earlier_period_counts_for_nothing() -> None:
    fixture = Fixture()
    breaker = fixture.breaker
    old = breaker.admit()
    assert old is not None
    fixture.half_open()
    for _ in range(3):
        breaker.done(old, False)
    assert breaker.state == "half-open"
    assert breaker.admit() is not None  # the old one doesn't take the trial's place either


def test_call_that_tells_nothing_frees_its_place() -> None:
    fixture = Fixture()
    breaker = fixture.half_open()
    for _ in range(10):
        fixture.trial(None)
    assert breaker.state == "half-open"
    assert breaker.admit() is not None


def test_other_rules() -> None:
    fixture = Fixture(bad_samples=1, open_seconds=2.0, trials=2, success=0.5, failures=2)
    fixture.samples(True)
    assert fixture.breaker.state == "open"
    fixture.clock.now += 2
    fixture.trial(False)
    fixture.trial(True)
    assert fixture.breaker.state == "closed"


@pytest.mark.parametrize(
    "name, value",
    [
        ("bad_samples", 0),
        ("bad_samples", 1.5),
        ("trials", -1),
        ("failures", 0),
        ("open_seconds", 0.0),
        ("open_seconds", float("nan")),
        ("success", 0.0),
        ("success", 1.1),
    ],
)
def test_rules_that_cannot_be_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}={value!r}: "):
        Fixture(**{name: value})


def test_a_trial_that_hangs_makes_room_for_another_in_time() -> None:
    """A long-lived connection as the only trial kept it half-open, and everybody else out."""
    fixture = Fixture(open_seconds=5.0)
    breaker = fixture.half_open()
    hangs = breaker.admit()
    assert hangs is not None and breaker.admit() is None
    fixture.clock.now += 5.0
    for _ in range(20):
        fixture.trial(True)
    assert breaker.state == "closed"
    breaker.done(hangs, False)  # tells nothing any more
    assert breaker.state == "closed"


def test_what_another_breaker_admitted_is_no_trial_of_this_one() -> None:
    old, new = Fixture(), Fixture()
    theirs = old.half_open().admit()
    breaker = new.half_open()
    assert theirs is not None and breaker.admit() is not None
    breaker.done(theirs, True)
    assert breaker.admit() is None


def test_rules_are_rules() -> None:
    with pytest.raises(TypeError, match=r"rules=\{\}"):
        Breaker({})  # type: ignore[arg-type]
