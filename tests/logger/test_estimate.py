"""How long a run takes, said once."""

import pytest

from logger import estimate
from logger.estimate import Estimate, clock_text


@pytest.mark.parametrize(
    "seconds, left, line",
    [
        (2.0, 1800, "about 59:50 left for 1,795 steps, at 0.5 steps per second"),
        (2.0, 30, None),  # soon done
        (0.1, 100_000, "about 2:46:30 left for 99,900 steps, at 10 steps per second"),
    ],
)
def test_an_estimate_comes_once(monkeypatch, seconds, left, line):
    """Ten seconds after the first step, whose time does not count."""
    now = [1000.0]
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: now[0])
    it, said = Estimate(), []
    for _ in range(300):
        left -= 1
        if not it.done:
            said.append(it.after_step(left + 1))
        now[0] += seconds
    assert it.done
    assert [text for text in said if text] == ([line] if line else [])


def test_clock_text():
    assert [clock_text(seconds) for seconds in (0, 59.6, 3599, 3600)] == ["0:00", "1:00", "59:59", "1:00:00"]
