"""Optuna's record of a design, without Ray running."""

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from trainables.design_search import DesignSearch


def search(tmp_path, points, arms, limit=lambda: 100):
    return DesignSearch(tmp_path / "optuna.log", "tiny", points, arms, "max", limit)


def trials(tmp_path):
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.log")))
    return {name: optuna.load_study(study_name=name, storage=storage).trials for name in storage_names(storage)}


def storage_names(storage):
    return sorted(optuna.get_all_study_names(storage))


def test_every_point_is_handed_out_once_and_recorded(tmp_path):
    points = [("a", 0), ("b", 0), ("a", 1)]
    one = search(tmp_path, points, ["a", "b"])
    assert [one.suggest(str(n)) for n in range(3)] == [{"arm": arm, "seed": seed} for arm, seed in points]
    assert one.suggest("3") == DesignSearch.FINISHED
    one.on_trial_result("0", {"objective": 0.3, "step": 5})
    one.on_trial_complete("0", {"objective": 0.4, "step": 10})
    one.on_trial_complete("1", {"objective": float("nan"), "failure": "NonFiniteLossError: x", "step": 0})
    one.on_trial_complete("2", None, error=True)
    (found,) = trials(tmp_path).values()
    assert [(t.params["arm"], t.params["seed"]) for t in found] == points
    assert [t.state for t in found] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    assert found[0].value == 0.4 and found[0].intermediate_values == {5: 0.3}


def test_trials_of_a_killed_driver_are_failed(tmp_path):
    search(tmp_path, [("a", 0)], ["a"]).suggest("0")
    search(tmp_path, [("a", 0)], ["a"])
    (found,) = trials(tmp_path).values()
    assert [t.state for t in found] == [TrialState.FAIL]


def test_other_arms_are_another_optuna_study(tmp_path):
    search(tmp_path, [("a", 0)], ["a", "b"]).suggest("0")
    more = search(tmp_path, [("c", 0)], ["a", "b", "c"])
    assert more.suggest("0") == {"arm": "c", "seed": 0}
    assert [len(found) for found in trials(tmp_path).values()] == [1, 1]


def test_no_more_are_out_than_fit_and_what_fits_may_change(tmp_path):
    fits = [1]
    one = search(tmp_path, [("a", seed) for seed in range(4)], ["a"], lambda: fits[0])
    assert one.suggest("0") == {"arm": "a", "seed": 0} and one.suggest("1") is None
    fits[0] = 2
    assert one.suggest("1") == {"arm": "a", "seed": 1} and one.suggest("2") is None
    fits[0] = 1
    one.on_trial_complete("0", {"objective": 0.4, "step": 10})
    assert one.suggest("2") is None
    one.on_trial_complete("1", None, error=True)
    assert one.suggest("2") == {"arm": "a", "seed": 2}
