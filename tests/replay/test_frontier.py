import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearopt.replay.frontier import efficient, frontier_points, normalised_area

POINTS = st.lists(
    st.tuples(st.floats(0.01, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=8
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(POINTS)
def test_the_frontier_is_what_nothing_betters(points):
    x, y = frontier_points(*zip(*points, strict=True))
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all()
    on = set(zip(x.tolist(), y.tolist(), strict=True))
    flags = efficient(points, points)
    assert on == {point for point, flag in zip(points, flags, strict=True) if flag}


@settings(max_examples=100, deadline=None)
@given(POINTS, st.floats(0.0, 1.0))
def test_the_area_lies_between_nothing_and_all_and_more_accuracy_never_shrinks_it(points, more):
    x, y = zip(*points, strict=True)
    area = normalised_area(x, y, cost=1.0, accuracy=1.0)
    assert 0.0 <= area <= 1.0 + 1e-12
    assert normalised_area(x, [min(v + more, 1.0) for v in y], cost=1.0, accuracy=1.0) >= (
        area - 1e-12
    )


def test_areas_by_hand():
    # A triangle to the first point, then flat: 0.5 * 0.5 * 0.8 + 0.5 * 0.8.
    assert normalised_area([0.5], [0.8], cost=1.0, accuracy=1.0) == pytest.approx(0.6)
    assert normalised_area([0.5], [0.8], cost=1.0, accuracy=0.8) == pytest.approx(0.75)
    # A point past the largest cost is reached half way.
    assert normalised_area([2.0], [0.8], cost=1.0, accuracy=1.0) == pytest.approx(0.2)
    # A worse and dearer point changes nothing.
    assert normalised_area([0.5, 0.7], [0.8, 0.1], cost=1.0, accuracy=1.0) == pytest.approx(0.6)
