"""The simulation of false passes: its batches decide as the product does, and it catches bad rules.

The figures themselves are of `python -m benchmarks gate-error`, which draws 20,000 sets a cell.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata

from benchmarks import gate_error
from benchmarks.gate_error import (
    agreement,
    calibration,
    coefficients,
    combined,
    contrasts,
    declared,
    mixes,
    pairs,
    ranking,
    refusals,
    shares,
)
from benchmarks.gate_error.cell import LEVEL, NOMINAL, Cell, alike, draw
from drgate.stats import bootstrap, bounded
from drgate.stats.agreement import kappa, limits
from drgate.stats.calibration import FEWEST_EVENTS, Calibration, brier, equal_patients
from drgate.stats.cluster import bounds, effective_sample, unknown_clusters
from drgate.stats.combined import Combined
from drgate.stats.gaps import Rate, largest
from drgate.stats.paired import noninferiority, paired_sample
from drgate.stats.proportion import wilson_bounds
from drgate.stats.ranking import auc_clustered
from drgate.stats.standardized import Standardized, estimate

SETS = 200
CAUGHT = 0.06
"""Far above what 200 sets show by chance at 2.5 %: one in a thousand cells has more than 12 of them."""


class TestEveryKind:
    @pytest.mark.parametrize("kind", gate_error.KINDS)
    def test_a_small_run(self, kind):
        """Every eleventh cell of the kind, at 200 sets, is not far above nominal; and its sets are often near it."""
        cells = gate_error.cells_of(kind)
        assert len(cells) >= 20
        found = [gate_error.share_passed(cell, SETS, 3) for cell in cells[::11]]
        assert max(found) <= CAUGHT
        assert 0 < np.mean(found) < NOMINAL

    def test_the_table_and_the_exit_code(self, capsys, monkeypatch):
        """The worst cells in Markdown, one a line, with how many there are; 1 where a redrawn cell is above 2.9 %."""
        good = Cell("60 coins", "2 %", lambda sets, rng: int((rng.random(sets) < 0.02).sum()))
        bad = Cell("60 coins", "4 %", lambda sets, rng: int((rng.random(sets) < 0.04).sum()))
        monkeypatch.setattr(gate_error, "KINDS", {"coins": lambda: [good, bad]})
        gate_error.cells_of.cache_clear()
        assert gate_error.main(["--sets", "4000"]) == 1
        told = capsys.readouterr()
        rows = [line for line in told.out.splitlines() if line.startswith("| 60")]
        assert [row.split(" | ")[0] for row in rows] == ["| 60 coins: 4 %", "| 60 coins: 2 %"]
        assert rows[1].endswith("|  |"), "a cell below nominal is not drawn again"
        assert "2 cells" in told.out
        assert "Error above 2.9 %: coins, 60 coins: 4 %" in told.err
        assert gate_error.main(["--sets", "4000", "--seed", "1"]) == 1
        assert capsys.readouterr().out != told.out
        monkeypatch.setattr(gate_error, "KINDS", {"coins": lambda: [good]})
        gate_error.cells_of.cache_clear()
        assert gate_error.main(["--sets", "4000"]) == 0
        gate_error.cells_of.cache_clear()

    def test_a_cell_does_not_depend_on_the_others(self):
        """The same cell and seed give the same share, whatever was drawn before."""
        cell = gate_error.cells_of("proportions")[30]
        first = gate_error.share_passed(cell, SETS, 5)
        gate_error.share_passed(gate_error.cells_of("proportions")[31], SETS, 5)
        assert gate_error.share_passed(cell, SETS, 5) == first


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def some(limits_found: list[float], *, high: bool = True) -> tuple[float, int]:
    """A threshold that some of the limits reach, and how many do."""
    threshold = float(np.median(limits_found)) + (1e-9 if not high else -1e-9)
    reached = sum(limit >= threshold if high else limit <= threshold for limit in limits_found)
    assert 0 < reached < len(limits_found)
    return threshold, reached


class TestTheProductDecides:
    """Each batch passes as many sets as the product's own functions, called for one set after the other."""

    @pytest.mark.parametrize("adverse", [False, True])
    @pytest.mark.parametrize("interval", ["clopper-pearson", "wilson"])
    @pytest.mark.parametrize(
        "name", ["60x1 + 1x40, correlation 0.5", "100x10, a fifth called", "60x2, correlation 0.8"]
    )
    def test_proportions(self, name, interval, adverse):
        """Patients with their images, through `effective_sample` and `bounds`."""
        times, counted, wrong = draw(shares.designs()[name](0.08), 300, rng_of(4))
        found = []
        for row in times:
            x = wrong if adverse else counted - wrong
            sample = effective_sample(x, counted, level=LEVEL, counts=row, adverse=adverse)
            ends = bounds(sample, level=LEVEL, interval=interval)
            found.append(ends.high if adverse else ends.low)
        threshold, expected = some(found, high=not adverse)
        assert shares.passed(times, counted, wrong, threshold=threshold, adverse=adverse, interval=interval) == expected

    @pytest.mark.parametrize("weights", agreement.WEIGHTS)
    def test_kappa(self, weights):
        """The lower limit of `limits`, of each set's distinct patients."""
        cells = agreement.graded(agreement.MIXES["even"], 0.1, 0.02)
        sets = agreement.draw([agreement.Group(40, 2, cells, 0.5)], 40, rng_of(5))
        found = []
        for one in sets:
            kinds, counts = np.unique(one, axis=0, return_counts=True)
            found.append(limits(kinds.reshape(-1, 5, 5), counts, weights, level=LEVEL)[0])
        threshold, expected = some(found)
        assert agreement.passed(sets, weights, threshold) == expected

    @pytest.mark.parametrize("name", ["60 with one of each", "40x1 and 1x20 with, 100x1 without"])
    def test_areas(self, name):
        """`auc_clustered` of every set, those too that `may_pass` leaves out."""
        positive, owner = ranking.images_of(ranking.DESIGNS[name])
        drawn = ranking.Scores(1.8, 0.5).draw(positive, owner, 100, rng_of(6))
        found = [auc_clustered(row, positive, owner, level=LEVEL).low for row in drawn]
        threshold, expected = some(found)
        assert ranking.passed(drawn, positive, owner, threshold) == expected

    @pytest.mark.parametrize("words", combined.COMBINATIONS)
    def test_ratios(self, words):
        """`effective_sample` of each rate, then `Combination.estimate`."""
        combination, high = combined.COMBINATIONS[words]
        kinds = combined.DESIGNS["20x2 with, 60 with one of each, 100x2 without"]
        groups = [combined.joint(number, (one, other), (0.9, 0.9), 0.5) for number, one, other in kinds]
        times, images, wrong = combined.draw(groups, 200, rng_of(7))
        found = []
        for row in times:
            sides = [
                effective_sample(images[:, at] - wrong[:, at], images[:, at], level=LEVEL, counts=row) for at in (0, 1)
            ]
            shared = int(row @ images.prod(axis=1))
            figure = combination.estimate(*sides, level=LEVEL, interval="clopper-pearson", shared=shared)
            assert isinstance(figure, Combined)
            found.append(figure.low if high else figure.high)
        threshold, expected = some(found, high=high)
        assert combined.passed(times, images, wrong, combination, threshold, high=high) == expected

    @pytest.mark.parametrize("at", [0, 20, 40, 100, 160])
    def test_figures_at_a_mix(self, at):
        """`estimate` of every set, those too that `may_pass` leaves out."""
        design = list(mixes.designs())[at][1]
        patterns, drawn = design.draw(150, rng_of(8))
        found = [estimate(design.ratio, patterns, times, mix=design.mix, level=LEVEL) for times in drawn]
        threshold, expected = some([one.low if isinstance(one, Standardized) else 0.0 for one in found])
        assert mixes.passed(design, patterns, drawn, threshold) == expected

    def test_brier_scores(self):
        """`brier` of every set, those too whose own score is too high."""
        owner = calibration.owners([(40, 2), (1, 10)])
        p, y = calibration.models(0.5)["overconfident"].draw(owner, 150, rng_of(9))
        found = [brier(one, other, owner, level=LEVEL).high for one, other in zip(p, y, strict=True)]
        threshold, expected = some(found, high=False)
        assert calibration.brier_passed(p, y, owner, threshold) == expected

    @pytest.mark.parametrize("figure", coefficients.RANGES)
    def test_calibration(self, figure):
        """`calibration_slope` and `calibration_intercept` of every set with patients enough."""
        design = coefficients.Design(((320, 1), (20, 3)), 0.5, 0.5)
        owner = calibration.owners(design.sizes)
        p, y = coefficients.draw(design, owner, 1.5, figure, {"slope": 1.05, "intercept": 0.65}[figure], 80, rng_of(20))
        least, most = coefficients.RANGES[figure]
        expected = 0
        for one, other in zip(p, y, strict=True):
            found = coefficients.FIGURES[figure](one, other, owner, level=LEVEL)
            assert isinstance(found, Calibration)
            enough = min(equal_patients(owner[other]), equal_patients(owner[~other])) >= FEWEST_EVENTS
            expected += bool(enough and least <= found.low and found.high <= most)
        assert 2 < expected < 78
        assert coefficients.passed(p, y, owner, figure) == expected

    def test_gaps(self):
        """`gaps.largest` of the groups' proportions with their limits."""
        groups = [
            draw([alike(n, images, wrong, 0.5)], 100, rng_of(at))
            for at, (n, images, wrong) in enumerate(((60, 1, 0.05), (60, 2, 0.1), (100, 2, 0.15)))
        ]
        found = []
        for at in range(100):
            rates = []
            for times, counted, wrong in groups:
                sample = effective_sample(counted - wrong, counted, level=LEVEL, counts=times[at])
                ends = bounds(sample, level=LEVEL, interval="clopper-pearson")
                rates.append(Rate(sample.k / sample.n, ends.low, ends.high, sample.effective_n))
            found.append(largest(rates, level=LEVEL).high)
        threshold, expected = some(found, high=False)
        assert contrasts.gap_passed(groups, threshold) == expected

    def test_readers(self):
        """`bounded.limits` of each set's patients, some of whose images a reader has not graded."""
        owner = calibration.owners([(30, 2), (1, 8)])
        sums, weights = contrasts.read(owner, (0.9, 0.8), 0.0, (0.4, 0.4), 0.7, 60, rng_of(21))
        margin, expected = some([-bounded.limits(*row, level=LEVEL)[0] for row in zip(sums, weights, strict=True)])
        passed = contrasts.readers_passed(sums, weights, margin)
        assert passed == 60 - expected

    def test_refusals(self):
        """Both limits, of the images with an answer and of all who come."""
        groups = [refusals.kind(60, 1, 0.06, 0.02, 0.2, 0.0), refusals.kind(20, 4, 0.06, 0.02, 0.2, 0.8)]
        times, images = refusals.draw(groups, 200, rng_of(22))
        right, wrong, refused = images.T
        found = []
        for row in times:
            answered, everyone = (
                bounds(
                    effective_sample(right, right + bad, level=LEVEL, counts=row),
                    level=LEVEL,
                    interval="clopper-pearson",
                ).low
                for bad in (wrong, wrong + refused)
            )
            found.append(min(answered, everyone + refusals.ALLOWANCE))
        threshold, expected = some(found)
        assert refusals.passed(times, images, threshold) == expected

    def test_declared(self):
        """`limits` of kappa and `unknown_clusters` of each set, with two images a patient declared."""
        cells = agreement.graded(agreement.MIXES["even"], 0.1, 0.02)
        tables = agreement.draw([agreement.Group(80, 1, cells)], 30, rng_of(23)).sum(axis=1)
        single = np.eye(25, dtype=np.int64)
        kappas = [
            limits(single.reshape(-1, 5, 5), table, "linear", level=LEVEL, images_a_patient=2)[0] for table in tables
        ]
        threshold, expected = some(kappas)
        assert agreement.passed_of(single, tables, "linear", threshold, images_a_patient=2) == expected
        groups = [alike(60, 2, 0.1, 0.5)]
        times, _, wrong = draw(groups, 100, rng_of(24))
        lows = [
            bounds(
                unknown_clusters(120 - bad, 120, images_a_patient=2, level=LEVEL),
                level=LEVEL,
                interval="clopper-pearson",
            ).low
            for bad in (times @ wrong).tolist()
        ]
        threshold, expected = some(lows)
        assert declared._share(100, rng_of(24), groups=groups, threshold=threshold, most=2) == expected

    def test_nothing_declared_passes_nothing(self):
        """Without patients and without a declaration even images without an error have no limit."""
        sample = unknown_clusters(1000, 1000, images_a_patient=None, level=LEVEL)
        assert bounds(sample, level=LEVEL, interval="clopper-pearson").low == 0

    def test_noninferiority(self):
        """`paired_sample` and `noninferiority` of every set."""
        groups = [pairs.kind(60, 1, 0.05, 0.05, 0.0), pairs.kind(10, 6, 0.05, 0.05, 0.5)]
        times, images, only = pairs.draw(groups, 200, rng_of(10))
        expected = sum(
            noninferiority(paired_sample(*only.T, images, counts=row), 0.1, level=LEVEL).shown for row in times
        )
        assert 10 < expected < 190
        assert pairs.passed(times, images, only, 0.1) == expected


class TestDesigns:
    @pytest.mark.parametrize("name", shares.designs())
    def test_the_true_share(self, name):
        """The share that a design promises is that of a large sample of its patients."""
        times, counted, wrong = draw(shares.designs()[name](0.05), 4000, rng_of(11))
        images = times @ counted
        error = (times @ wrong).sum() / images.sum()
        spread = np.sqrt(((times @ wrong - 0.05 * images) ** 2).sum()) / images.sum()
        assert abs(error - 0.05) < 4.5 * spread

    def test_the_true_kappa_and_area(self):
        """Of large samples: kappa of the groups' cells, the area of each model's scores."""
        groups = agreement.designs()["90x1 + 10x10, far errors in large ones"]
        whole = agreement.draw(groups, 3000, rng_of(12)).sum(axis=(0, 1)).reshape(5, 5)
        cell = next(c for c in gate_error.cells_of("kappa") if c.design == "90x1 + 10x10, far errors in large ones")
        assert f"{float(kappa(whole, 'none')[0]):.2f}" in cell.rule
        positive, owner = ranking.images_of([(2000, 1, 0), (2000, 0, 1)])
        for scores in (ranking.Scores(1.5, 0.0), ranking.Scores(1.5, 0.5, 0.1, 5), ranking.Scores(1.5, 0.5, 0.0, 2)):
            area = np.mean(
                [
                    (rankdata(row)[positive].sum() - 2000 * 2001 / 2) / 2000**2
                    for row in scores.draw(positive, owner, 20, rng_of(13))
                ]
            )
            assert area == pytest.approx(scores.area, abs=0.005)

    def test_the_true_area_by_patient(self):
        """Of the largest scores of many patients, whole scores and others."""
        kinds = [(3000, 1, 1), (3000, 0, 3)]
        positive, owner = ranking.images_of(kinds)
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        for rounded in (False, True):
            scores = ranking.Scores(1.0, 0.8).draw(positive, owner, 10, rng_of(25))
            units = np.maximum.reduceat(scores, starts, axis=1)
            ranks = rankdata(np.round(units) if rounded else units, axis=1)[:, :3000]
            area = ((ranks.sum(axis=1) - 3000 * 3001 / 2) / 3000**2).mean()
            assert area == pytest.approx(ranking._largest_area(kinds, 1.0, 0.8, rounded=rounded), abs=0.005)

    @pytest.mark.parametrize("figure", coefficients.RANGES)
    def test_the_true_coefficients(self, figure):
        """Slope and intercept of a large sample."""
        design = coefficients.Design(((40_000, 1),), 0.3)
        owner = calibration.owners(design.sizes)
        for at in coefficients.RANGES[figure]:
            p, y = coefficients.draw(design, owner, 1.0, figure, at, 1, rng_of(26))
            found = coefficients.FIGURES[figure](p[0], y[0], owner, level=LEVEL)
            assert isinstance(found, Calibration)
            assert abs(found.value - at) < 4 * found.se

    def test_the_true_brier_score(self):
        """Of a large sample, whether images are alike or not."""
        owner = calibration.owners([(4000, 2)])
        for together in (0.0, 0.9):
            for model in calibration.models(together).values():
                p, y = model.draw(owner, 10, rng_of(14))
                assert ((p - y) ** 2).mean() == pytest.approx(model.score, abs=0.004)


class TestBadRules:
    """Rules that are known to pass too often are seen to, at the same cells."""

    def test_the_percentile_bootstrap_for_kappa(self):
        """Rare far errors, two eyes: a third of the sets of 60 patients."""
        groups = agreement.designs()["60x2, screening, rare far, alike 0.9"]
        threshold = float(kappa(groups[0].cells, "quadratic")[0])
        sets = agreement.draw(groups, SETS, rng_of(15))
        passed = 0
        for at, one in enumerate(sets):
            patterns, counts = np.unique(one, axis=0, return_counts=True)
            drawn = bootstrap.resample_patients(patterns, counts, resamples=300, seed=at)
            found = bootstrap.percentile_interval(*_with_defined(kappa(drawn.reshape(-1, 5, 5), "quadratic")))
            passed += found is not None and found.low >= threshold
        assert passed / SETS > 4 * CAUGHT
        assert agreement.passed(sets, "quadratic", threshold) / SETS <= CAUGHT

    def test_wald_and_independence_for_a_proportion(self):
        """The Wald interval at 60 images, and the plain interval of images that are pairs."""
        times, counted, wrong = draw(shares.designs()["60x1, correlation 0"](0.05), SETS, rng_of(16))
        p = 1 - times @ wrong / 60
        assert (p - 1.96 * np.sqrt(p * (1 - p) / 60) >= 0.95).mean() > CAUGHT
        assert shares.passed(times, counted, wrong, threshold=0.95, adverse=False, interval="clopper-pearson") <= 12
        name = "100x4, correlation 0.8"
        times, counted, wrong = draw(shares.designs()[name](0.1), SETS, rng_of(17))
        plain = [wilson_bounds(400 - errors, 400, level=LEVEL).low >= 0.9 for errors in (times @ wrong).tolist()]
        assert np.mean(plain) > 2 * CAUGHT

    def test_patients_as_sample_sizes_for_an_area(self):
        """One patient with four in ten of the images without the grade: 4.4 % passed where each patient counted as one.

        Newcombe's interval has fewer patients now, as many as there would be with equally many images.
        """
        cell = next(
            c
            for c in gate_error.cells_of("auc")
            if c.design == "100x1 with, 60x1 and 1x40 without, area 0.8, any score, correlation 0.8"
        )
        assert gate_error.share_passed(cell, 1500, 0) < NOMINAL


def _with_defined(found: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, float, np.ndarray]:
    values, defined = found
    return values, LEVEL, defined
