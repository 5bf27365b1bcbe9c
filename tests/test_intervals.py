"""The patient-clustered bootstrap: what it draws, how often it covers, and when it says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from foveate.errors import UsageError
from foveate.evaluate import evaluate_predictions
from foveate.evaluate import intervals as module
from foveate.evaluate.discrimination import Discrimination
from foveate.evaluate.intervals import Bootstrap, Floats, Statistic, mean_of_defined
from foveate.evaluate.summary import OVERALL
from foveate.evaluate.table import PredictionTable
from foveate.types import Item
from test_discrimination import random_multiclass, table_of

NAN = float("nan")


def _weights_of(bootstrap: Bootstrap, patients: Sequence[str]) -> np.ndarray:
    return bootstrap.replicates(lambda weights: {"weights": weights}, patients)["weights"]


def test_a_replicate_draws_as_many_patients_as_there_are_each_with_all_cases() -> None:
    patients = ["b", "a", "b", "c", "a", "b"]
    weights = _weights_of(Bootstrap(500, seed=3), patients)
    assert weights.shape == (500, 6)
    for same in ([0, 2, 5], [1, 4], [3]):
        assert (weights[:, same] == weights[:, same[:1]]).all()
    once = weights[:, [1, 0, 3]]
    assert (once.sum(axis=1) == 3).all()
    assert stats.chisquare(once.sum(axis=0)).pvalue > 1e-3  # every patient is as likely
    shares = [(once[:, 0] == times).mean() for times in range(4)]
    np.testing.assert_allclose(shares, stats.binom.pmf(range(4), 3, 1 / 3), atol=0.08)


def test_the_seed_decides_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    patients = [str(n // 2) for n in range(40)]
    first = _weights_of(Bootstrap(90, seed=1), patients)
    assert (first == _weights_of(Bootstrap(90, seed=1), patients)).all()
    assert (first != _weights_of(Bootstrap(90, seed=2), patients)).any()
    monkeypatch.setattr(module, "_CHUNK", 40 * 7)
    assert (first == _weights_of(Bootstrap(90, seed=1), patients)).all()


def tail_of(patients: int, level: float = 0.95) -> float:
    """Share of the replicates of few patients that lies below an interval (Hesterberg 2015)."""
    reach = stats.t.ppf((1 + level) / 2, patients - 1) * np.sqrt(patients / (patients - 1))
    return float(stats.norm.sf(reach))


def test_the_interval_is_the_expanded_percentiles_of_the_replicates() -> None:
    replicates = np.random.default_rng(0).normal(size=999)
    value = Bootstrap(999, level=0.9).value(0.0, replicates, n=50, patients=20)
    tail = tail_of(20, 0.9)
    assert tail == pytest.approx(0.0380, abs=1e-4)  # t = 1.7291, times the root of 20 / 19
    assert value.low == pytest.approx(np.quantile(replicates, tail))
    assert value.high == pytest.approx(np.quantile(replicates, 1 - tail))
    assert (value.value, value.n, value.patients, value.reason) == (0.0, 50, 20, None)
    many = Bootstrap(999, level=0.9).value(0.0, replicates, n=50, patients=10**6)
    assert many.low == pytest.approx(np.percentile(replicates, 5), abs=1e-4)


def _mean_interval(values: np.ndarray, patients: Sequence[str], n: int, seed: int = 0) -> tuple[float, float]:
    def mean(weights: Floats) -> dict[str, Floats]:
        return {"mean": weights @ values / weights.sum(axis=1)}

    bootstrap = Bootstrap(n, seed=seed)
    replicates = bootstrap.replicates(mean, patients)["mean"]
    value = bootstrap.value(float(values.mean()), replicates, n=len(values), patients=len(set(patients)))
    assert value.low is not None
    assert value.high is not None
    return value.low, value.high


def _clustered(draws: np.random.Generator, patients: int, cases: int) -> tuple[np.ndarray, list[str]]:
    """Values that patients share in part: within-patient correlation 0.5."""
    values = draws.normal(size=(patients, 1)) + draws.normal(size=(patients, cases))
    return values.ravel(), [f"p{p}" for p in range(patients) for _ in range(cases)]


def test_equal_clusters_give_the_interval_of_the_patients_means_in_scipy() -> None:
    values, patients = _clustered(np.random.default_rng(5), 40, 5)
    means = values.reshape(40, 5).mean(axis=1)
    other = stats.bootstrap(
        (means,),
        np.mean,
        n_resamples=20_000,
        confidence_level=1 - 2 * tail_of(40),
        method="percentile",
        rng=np.random.default_rng(9),
    )
    found = _mean_interval(values, patients, 20_000)
    np.testing.assert_allclose(found, other.confidence_interval, atol=0.01)


def test_bca_gives_the_interval_of_the_patients_means_in_scipy() -> None:
    """Of a skewed statistic: scipy resamples the means of equal clusters, this project the clusters."""
    values = np.exp(np.random.default_rng(8).normal(size=(25, 1)) * 1.2) * np.array([[0.9, 1.0, 1.1]])
    patients = [f"p{p}" for p in range(25) for _ in range(3)]
    other = stats.bootstrap(
        (values.mean(axis=1),),
        np.mean,
        n_resamples=40_000,
        confidence_level=1 - 2 * tail_of(25),
        method="BCa",
        rng=np.random.default_rng(1),
    )

    def mean(weights: Floats) -> dict[str, Floats]:
        return {"mean": weights @ values.ravel() / weights.sum(axis=1)}

    bootstrap = Bootstrap(40_000, method="bca")
    rows = bootstrap.replicates(mean, patients)["mean"]
    assert len(rows) == 40_000 + 25
    found = bootstrap.value(float(values.mean()), rows, n=75, patients=25)
    percentile = replace(bootstrap, method="percentile").value(
        float(values.mean()), rows[:40_000], n=75, patients=25
    )
    assert found.low is not None
    assert percentile.high is not None
    assert found.reason is None
    np.testing.assert_allclose([found.low, found.high], other.confidence_interval, rtol=0.015)
    assert abs(percentile.high - other.confidence_interval.high) > 0.1  # the two kinds do differ here


def test_the_jackknife_leaves_out_each_patient_once_and_groups_of_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rows(patients: Sequence[str]) -> np.ndarray:
        bootstrap = Bootstrap(10, method="bca")
        return bootstrap.replicates(lambda weights: {"w": weights}, patients)["w"][10:]

    left_out = rows(["a", "b", "b", "c"])
    assert sorted(map(tuple, left_out)) == [(0, 1, 1, 1), (1, 0, 0, 1), (1, 1, 1, 0)]
    monkeypatch.setattr(module, "GROUPS", 4)
    groups = rows([str(n // 2) for n in range(20)])
    assert groups.shape == (4, 20)
    assert (groups.sum(axis=0) == 3).all()
    assert (groups[:, ::2] == groups[:, 1::2]).all()


def test_left_out_groups_estimate_the_acceleration_of_a_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a mean it is known: a sixth of the skewness over the root of the number of patients (Efron 1987)."""
    values = np.random.default_rng(2).gamma(0.5, size=5000)
    known = stats.skew(values) / 6 / np.sqrt(len(values))

    def acceleration(seed: int) -> float:
        bootstrap = Bootstrap(2, seed=seed, method="bca")
        rows = bootstrap.replicates(
            lambda w: {"mean": w @ values / w.sum(axis=1)}, list(map(str, range(5000)))
        )
        return module._acceleration(rows["mean"][2:])

    grouped = [acceleration(seed) for seed in range(12)]
    assert np.mean(grouped) == pytest.approx(known, rel=0.25)
    assert np.std(grouped) < 0.004
    monkeypatch.setattr(module, "GROUPS", 5000)
    assert acceleration(0) == pytest.approx(known, rel=1e-6)


def test_where_bca_is_undefined_the_percentile_interval_stands_and_says_so() -> None:
    rows = np.random.default_rng(0).normal(size=520)
    bootstrap = Bootstrap(500, method="bca")
    aside = bootstrap.value(float(rows.max() + 1), rows, n=40, patients=20)
    assert aside.low == pytest.approx(np.quantile(rows[:500], tail_of(20)))
    assert "percentile interval: all bootstrap replicates lie on one side" in str(aside.reason)
    unknown = bootstrap.value(0.0, np.append(rows[:519], NAN), n=40, patients=20)
    assert unknown.low == pytest.approx(np.quantile(rows[:500], tail_of(20)))
    assert unknown.reason == "percentile interval: undefined without some of the patients"


def test_very_uneven_patients_reach_to_the_ends_of_the_replicates_not_back_again() -> None:
    """Where the skewness outweighs the quantile, the denominator of BCa turns its sign."""
    rows = np.append(np.sort(np.random.default_rng(0).normal(size=500)), [0.0, 0.0, -9.0])
    bootstrap = Bootstrap(500, method="bca")
    value = bootstrap.value(0.0, rows, n=9, patients=3)
    assert value.high == rows[499]
    assert value.low is not None and value.low < 0


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draws, rounds = np.random.default_rng(11), 300
    clustered = naive = 0
    for seed in range(rounds):
        values, patients = _clustered(draws, 50, 4)
        low, high = _mean_interval(values, patients, 300, seed)
        clustered += low <= 0 <= high
        low, high = _mean_interval(values, [str(n) for n in range(len(values))], 300, seed)
        naive += low <= 0 <= high
    assert 0.91 <= clustered / rounds <= 0.98
    assert naive / rounds < 0.86  # resampling cases promises too much


def _cohort(draws: np.random.Generator, patients: int) -> PredictionTable:
    """One finding; 1 to 5 cases a patient, whose scores have half of their variance in common."""
    patient = np.repeat(np.arange(patients), draws.integers(1, 6, size=patients))
    truth = (draws.random(len(patient)) < 0.4).astype(float)
    noise = draws.normal(size=patients)[patient] + draws.normal(size=len(patient))
    scores = stats.norm.cdf(1.5 * truth - 1 + noise / np.sqrt(2))
    names = [f"p{n}" for n in patient]
    return table_of("multilabel", truth[:, None], scores[:, None], patients=names)


def _figures(table: PredictionTable) -> Statistic:
    discrimination = Discrimination(table, table.decisions())

    def chosen(weights: Floats) -> dict[str, Floats]:
        found = discrimination(weights)
        return {name: found[name][:, 0] for name in ("auroc", "recall", "specificity", "accuracy")}

    return chosen


@pytest.mark.slow
def test_bca_covers_discrimination_of_clustered_cases_as_often_as_it_says() -> None:
    """Figures of 200 patients with up to 5 cases; benchmarks/coverage.py has more of them."""
    draws, rounds = np.random.default_rng(4), 1000
    large = _cohort(draws, 40_000)
    truth = _figures(large)(np.ones((1, len(large.truth))))
    held = dict.fromkeys(truth, 0)
    for seed in range(rounds):
        table = _cohort(draws, 200)
        figures, bootstrap = _figures(table), Bootstrap(600, seed=seed, method="bca")
        point = figures(np.ones((1, len(table.truth))))
        rows = bootstrap.replicates(figures, table.patient_ids)
        for name, value in point.items():
            told = bootstrap.value(float(value[0]), rows[name], n=1, patients=200)
            assert told.low is not None
            assert told.high is not None
            held[name] += told.low <= truth[name][0] <= told.high
    for name, count in held.items():
        assert 0.93 <= count / rounds <= 0.97, f"{name}: {held}"


def test_the_clustered_interval_is_wider_than_the_naive_one() -> None:
    draws = np.random.default_rng(2)
    skill = np.repeat(draws.random(30) < 0.7, 6)
    truth = draws.integers(2, size=180)
    probabilities = np.eye(2)[np.where(skill, truth, 1 - truth)] * 0.8 + 0.1
    patients = [f"p{n // 6}" for n in range(180)]
    by_patient = evaluate_predictions(
        table_of("multiclass", np.eye(2)[truth], probabilities, patients=patients)
    )
    by_case = evaluate_predictions(table_of("multiclass", np.eye(2)[truth], probabilities))
    for name in ("accuracy", "balanced_accuracy", "auroc_macro"):
        wide, narrow = by_patient.metrics.figure(name), by_case.metrics.figure(name)
        assert wide.value == narrow.value
        assert wide.high - wide.low > 1.7 * (narrow.high - narrow.low)  # sqrt(6) if wholly shared
        assert (wide.n, wide.patients, narrow.patients) == (180, 30, 180)


@pytest.mark.slow
def test_every_metric_is_replicated_as_if_the_drawn_patients_were_the_cohort() -> None:
    """Literal resampling, row by row, gives the same replicates."""
    table = random_multiclass(17, 30, 3, 6)
    patients = [f"p{n // 3}" for n in range(30)]
    table = table_of("multiclass", table.truth, table.probabilities, patients=patients)
    drawn = Bootstrap(40, seed=6)
    found = drawn.replicates(Discrimination(table, table.decisions()), patients)
    times = _weights_of(drawn, patients).astype(int)
    for number, row in enumerate(times):
        copy = table_of("multiclass", np.repeat(table.truth, row, 0), np.repeat(table.probabilities, row, 0))
        literal = evaluate_predictions(copy, n_boot=0).metrics
        for name, source in OVERALL.items():
            replicate = float(mean_of_defined(found[source][number]))
            assert replicate == pytest.approx(literal.figure(name).value), name


def test_one_patient_has_no_interval() -> None:
    table = table_of("multiclass", np.eye(2)[[0, 1, 1]], np.eye(2)[[0, 1, 0]], patients=["p"] * 3)
    for value in evaluate_predictions(table).metrics.named().values():
        assert value.value is not None
        assert value.low is value.high is None
        assert value.reason == "no interval: all cases are of one patient"


def test_a_finding_that_is_known_of_one_patient_only_has_no_interval() -> None:
    truth = np.array([[1, 1], [0, 0], [1, np.nan], [0, np.nan]])
    table = table_of("multilabel", truth, np.full((4, 2), 0.4), patients=["p", "p", "q", "r"])
    found = evaluate_predictions(table, n_boot=50).per_class["c1"].specificity
    assert (found.value, found.n, found.patients) == (1.0, 2, 1)
    assert found.low is None
    assert "one patient" in found.reason


def test_a_figure_that_too_many_replicates_lack_has_no_interval_and_one_of_two_patients_has() -> None:
    truth = np.zeros((40, 2))
    truth[:1, 0] = truth[:2, 1] = 1
    table = table_of("multilabel", truth, np.random.default_rng(1).random((40, 2)))
    figures, bootstrap = Discrimination(table, table.decisions()), Bootstrap(1000)
    point, drawn = figures(np.ones((1, 40)))["auroc"][0], bootstrap.replicates(figures, table.patient_ids)
    single, double = (
        bootstrap.value(float(point[k]), drawn["auroc"][:, k], n=40, patients=40) for k in range(2)
    )
    assert single.value is not None
    assert single.low is None
    lost = int(str(single.reason).removeprefix("no interval: undefined in ").split()[0])
    assert lost == pytest.approx(1000 * (1 - 1 / 40) ** 40, abs=60)  # the patient was not drawn
    assert double.low is not None
    lost = int(str(double.reason).split()[0])
    assert lost == pytest.approx(1000 * (1 - 2 / 40) ** 40, abs=45)


def test_replicates_that_do_not_differ_give_no_interval_but_an_exact_one_and_bias_is_said() -> None:
    same = Bootstrap(50).value(1.0, np.ones(50), n=9, patients=9)
    assert (same.low, same.high) == (None, None)
    assert same.reason == "no interval: the bootstrap replicates do not differ"
    edge = Bootstrap(50).value(1.0, np.ones(50), n=9, patients=9, edge=(0.7, 1.0))
    assert (edge.low, edge.high, edge.reason) == (0.7, 1.0, None)
    differing = Bootstrap(50).value(0.5, np.linspace(0, 1, 50), n=9, patients=9, edge=(0.7, 1.0))
    assert differing.low is not None and differing.low < 0.1
    exact = Bootstrap(50).value(0.5, np.linspace(0, 1, 50), n=9, patients=9, exact=(0.4, 0.6))
    assert (exact.low, exact.high) == (0.4, 0.6)
    assert Bootstrap(0).value(0.5, None, n=9, patients=9, exact=(0.4, 0.6)).low is None
    outside = Bootstrap(50).value(0.0, np.linspace(1, 2, 50), n=9, patients=9)
    assert outside.low is not None
    assert "biased" in str(outside.reason)
    assert (
        Bootstrap(50).value(NAN, None, n=0, patients=0, reason="no positive case").reason
        == "no positive case"
    )


def test_settings_without_sense_are_refused() -> None:
    for settings in ({"n": -1}, {"level": 0.0}, {"level": 1.0}):
        with pytest.raises(UsageError, match="makes no sense"):
            Bootstrap(**settings)  # type: ignore[arg-type]


def test_means_of_what_is_defined() -> None:
    np.testing.assert_array_equal(
        mean_of_defined(np.array([[1.0, NAN, 3.0], [NAN, NAN, NAN], [0.0, 0.0, 6.0]])), [2.0, NAN, 2.0]
    )


def test_progress_is_shown() -> None:
    seen: list[str] = []

    def track(items: Sequence[Item], what: str) -> Iterable[Item]:
        seen.append(what)
        return items

    evaluate_predictions(random_multiclass(0, 20, 3, 9), n_boot=20, track=track)
    assert set(seen) == {"Bootstrap"}
