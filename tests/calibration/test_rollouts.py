import numpy as np
import pytest

import clearopt as co
from clearopt.calibration import CalibrationError, Rollouts


def test_accuracy_under_a_cap_and_ample_cap():
    rollouts = Rollouts(
        query=np.arange(8) // 2,
        tokens=[10, 20, 30, 40, 50, 60, 70, 400],
        correct=[1, 1, 1, 1, 0, 1, 1, 1],
        finished=[1, 1, 1, 1, 1, 1, 1, 0],
    )
    assert rollouts.accuracy_under(9) == 0.0
    assert rollouts.accuracy_under(40) == 0.5
    # The wrong answer and the one that was cut do not count.
    assert rollouts.accuracy_under(1000) == 0.75
    assert rollouts.ample_cap() == 70
    assert rollouts.ample_cap(0.5) == 30
    for share in (0.2, 0.5, 0.9, 0.99):
        cap = rollouts.ample_cap(share)
        assert rollouts.accuracy_under(cap) >= share * 0.75 - 1e-12
        assert rollouts.accuracy_under(cap - 1) < share * 0.75


def test_no_right_answer_means_no_ample():
    with pytest.raises(CalibrationError, match="none of the 2 calibration rollouts is right"):
        Rollouts([0, 1], [5, 5], [0, 0], [1, 1]).ample_cap()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], [], []), "there are none"),
        (([0, 1], [5], [1, 1], [1, 1]), r"tokens has shape \(1,\), query has shape \(2,\)"),
        (([0, -1], [5, 5], [1, 1], [1, 1]), r"query\[1\] = -1.0: must be a whole number"),
        (([0, 0.5], [5, 5], [1, 1], [1, 1]), r"query\[1\] = 0.5: must be a whole number"),
        (([0, 1], [5, -2], [1, 1], [1, 1]), r"tokens\[1\] = -2.0: must be at least 0"),
        (([0, 1], [5, np.nan], [1, 1], [1, 1]), r"tokens\[1\] = nan"),
        (([0, 1], [5, 5], [1, 2], [1, 1]), r"correct\[1\] = 2.0: must be a bool"),
        (([0, 1], [5, 5], [1, 1], [1, 0.5]), r"finished\[1\] = 0.5: must be a bool"),
        ((0, 5, 1, 1), "give one entry a rollout"),
    ],
)
def test_bad_rollouts_are_named(arguments, message):
    with pytest.raises(co.DeclarationError, match=message):
        Rollouts(*arguments)
