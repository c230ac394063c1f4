"""What page one says where the classes, or the grades of the reference, seem to be in another order."""

from __future__ import annotations

import dataclasses
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from drgate.checklist import Checklist, parse_checklist
from drgate.evaluate import evaluate
from drgate.evaluation import Model
from drgate.models import classes_of
from drgate.predictions import PROBABILITIES, Predictions, load_predictions, make_predictions, published
from drgate.report import words
from drgate.report.evaluation import html, markdown, terminal
from drgate.scale import GRADES

SIZES = (209, 71, 49, 26, 45)
ALPHABETICAL = (1, 2, 0, 4, 3)
"""The grades of the folders Mild, Moderate, No_DR, Proliferate_DR, Severe in their order."""


def checklist(**changes: Any) -> Checklist:
    content: dict[str, Any] = {
        "name": "small",
        "version": 1,
        "bootstrap": {"resamples": 1000},
        "criteria": [{"id": "accuracy", "at_least": 0.5}],
    }
    return parse_checklist(content | changes, "x")


def drawn(*, order: Any = range(5), grades: Any = range(5), unit: int = 2) -> Predictions:
    """Answers that are right nine times in ten; p_j holds grade order[j], and a reference j means grade grades[j]."""
    rng = np.random.default_rng(0)
    grade = np.repeat(range(5), SIZES)
    share = rng.dirichlet(np.full(5, 0.5), len(grade))
    share[np.arange(len(grade)), np.clip(grade + rng.choice([-1, 0, 1], len(grade), p=[0.05, 0.9, 0.05]), 0, 4)] += 2
    share /= share.sum(axis=1, keepdims=True)
    table = pd.DataFrame(share[:, list(order)], columns=list(PROBABILITIES))
    numbers = np.arange(len(grade))
    table = table.assign(
        image=[f"{n:04}.png" for n in numbers],
        patient=[f"P{n // unit}" for n in numbers],
        eye=np.where(numbers % 2, "R", "L"),
        grade=np.argsort(list(grades))[grade],
    )
    return make_predictions(table, "drawn.csv", {})


class TestOrder:
    def test_the_alphabetical_order_of_folders_is_named(self):
        """The columns, the gain, its chance and the remedy stand first under the headline of every page."""
        found = evaluate(drawn(order=ALPHABETICAL), checklist())
        said = found.reordered
        assert said is not None
        assert "p_0 holds mild NPDR, p_1 holds moderate NPDR, p_2 holds no DR, p_3 holds PDR and p_4 holds" in said
        assert "rename p_0 to p_1, p_1 to p_2, p_2 to p_0, p_3 to p_4 and p_4 to p_3 together" in said
        mended = evaluate(drawn(), checklist())
        right = sum(mended.confusion_matrix[g][g] for g in range(5))
        given = sum(found.confusion_matrix[g][g] for g in range(5))
        assert f"Then {right} of 400 images have the right answer, instead of {given} " in said
        kappa = mended.metrics["quadratic_kappa"]
        assert f"quadratic kappa {kappa.value:.2f} instead of" in said  # type: ignore[union-attr]
        assert "1 in 1,000,000 random permutations" in said
        assert words.under_headline(found)[0] == said
        assert mended.reordered is None

    def test_it_changes_no_verdict(self):
        """The same criteria come out as without the sentence."""
        found = evaluate(drawn(order=ALPHABETICAL), checklist())
        assert (found.verdict, found.criteria[0].status) == ("FAIL", "FAIL")

    @pytest.mark.parametrize("order", list(itertools.permutations(range(5)))[1::7])
    def test_any_other_order_is_named(self, order: tuple[int, ...]):
        """What is named is what was done to the columns."""
        said = evaluate(drawn(order=order), checklist()).reordered
        if said is None:  # two grades that are next to each other, with few images
            assert sum(j != g for j, g in enumerate(order)) == 2
            assert {j for j, g in enumerate(order) if j != g} in ({2, 3}, {3, 4})
            return
        held = {j: g for j, g in enumerate(order) if j != g}
        title = ("no DR", "mild NPDR", "moderate NPDR", "severe NPDR", "PDR")
        assert all(f"p_{j} holds {title[g]}" in said for j, g in held.items())
        assert said.count(" holds ") == len(held)

    def test_a_model_is_told_what_to_state(self):
        """The classes for model.yaml are in the order of the model's outputs, in its own words and drgate's."""
        model = Model(
            "onnx",
            "m.onnx",
            (),
            class_names=GRADES[::-1],
            own_names=("E", "D", "C", "B", "A"),
        )
        said = evaluate(drawn(order=ALPHABETICAL), checklist(), model=model).reordered
        assert said is not None
        assert "output 1 (E) holds severe NPDR" in said
        assert "state classes: [severe_npdr, pdr, no_dr, moderate_npdr, mild_npdr] in model.yaml" in said

    def test_the_order_of_a_models_classes_is_shown(self):
        """The model's own name of each output and the grade that it stands for, in the order of the outputs."""
        own = ("Mild", "Moderate", "No_DR", "Proliferate_DR", "Severe")
        model = Model("onnx", "m.onnx", (), class_names=classes_of([*own], "m.onnx"), own_names=own)
        found = evaluate(drawn(), checklist(), model=model)
        stream = io.StringIO()
        terminal.render(found, Console(file=stream, width=200))
        for page in (html.render(found), markdown.render(found).replace("\\", ""), stream.getvalue()):
            assert (
                "Mild = Mild NPDR, Moderate = Moderate NPDR, No_DR = No DR, Proliferate_DR = PDR, Severe = Sev" in page
            )
        assert "Classes" not in dict(words.summary(evaluate(drawn(), checklist())))

    def test_cut_offs_play_no_part(self):
        """A cautious operating point of a model whose order is right is no wrong order."""
        table = drawn().table
        given = drawn(order=ALPHABETICAL)
        moved = dataclasses.replace(given, table=given.table.assign(predicted=table["predicted"]))
        assert evaluate(moved, checklist()).reordered == evaluate(given, checklist()).reordered
        right = drawn()
        cautious = right.table["predicted"].where(right.table["predicted"] != 0, 2)
        careful = dataclasses.replace(right, table=right.table.assign(predicted=cautious))
        assert evaluate(careful, checklist()).reordered is None

    def test_the_published_table_gives_the_same_words(self):
        """`drgate verify` recomputes the sentence; rows may come in any order and patients have other names."""
        given = drawn(order=ALPHABETICAL, unit=3)
        first = evaluate(given, checklist(unit="patient"))
        again = evaluate(published(given, checklist()), checklist(unit="patient"))
        assert first.reordered is not None
        assert again.reordered == first.reordered
        assert again.page_one == first.page_one

    def test_a_model_that_answers_nothing_is_left_alone(self):
        """Without an answer there is no order."""
        table = drawn().table
        table[[*PROBABILITIES, "predicted"]] = pd.NA
        silent = make_predictions(table, "silent.csv", {})
        assert evaluate(silent, checklist()).reordered is None

    def test_one_referable_answer_that_is_inverted_is_named(self):
        """p_referable that is the probability of not referable."""
        from drgate.class_order import reordered

        table = drawn().table.drop(columns=[*PROBABILITIES, "predicted"])
        right = (table["grade"] >= 2).astype(float)
        p = (right * 0.8 + 0.1).where(np.arange(len(table)) % 10 > 0, 0.5)
        model = Model("predictions table", "t.csv", ())
        assert reordered(make_predictions(table.assign(p_referable=p), "t.csv", {}), model) is None
        said = reordered(make_predictions(table.assign(p_referable=1 - p), "t.csv", {}), model)
        assert said is not None
        assert "inverted" in said


class TestMix:
    def test_the_mix_of_grades_is_on_page_one(self):
        """How many images have each reference grade."""
        page = evaluate(drawn(), checklist()).page_one
        assert "Reference grades: No DR 209, Mild NPDR 71, Moderate NPDR 49, Severe NPDR 26, PDR 45." in page
        assert not any("most common" in line for line in page)

    def test_grades_and_columns_in_one_wrong_order(self):
        """They agree with each other, so only the mix of grades shows it: no DR is not the most common."""
        found = evaluate(drawn(order=ALPHABETICAL, grades=ALPHABETICAL), checklist())
        assert found.reordered is None
        assert "Reference grades: No DR 71, Mild NPDR 49, Moderate NPDR 209, Severe NPDR 45, PDR 26." in found.page_one
        assert any(line.startswith("The most common reference grade is moderate NPDR, not") for line in found.page_one)

    def test_an_enriched_test_set_is_not_asked(self):
        """Where the checklist states that the test set is enriched, other grades may be as common."""
        stated = checklist(test_set={"sampling": "Enriched for severe NPDR and PDR"})
        found = evaluate(drawn(order=ALPHABETICAL, grades=ALPHABETICAL), stated)
        assert not any("most common" in line for line in found.page_one)

    @pytest.mark.parametrize("share", [0.3, 0.7])
    def test_a_reference_that_says_only_whether_to_refer(self, share: float):
        """Its two counts are on page one; where most are referable, it asks whether 1 means that."""
        table = drawn().table.drop(columns="grade").assign(referable=(np.arange(400) < 400 * share).astype(int))
        page = evaluate(make_predictions(table, "refer.csv", {}), checklist()).page_one
        assert f"Reference: Not referable {round(400 * (1 - share))}, Referable {round(400 * share)}." in page
        assert any("Does 1 in the column referable mean to refer?" in line for line in page) == (share > 0.5)


class TestRealTables:
    @pytest.fixture
    def aptos(self, real_data: Path) -> Path:
        return real_data / "predictions" / "aptos-efficientnet.csv"

    @pytest.fixture
    def weak(self, real_data: Path) -> Path:
        return real_data / "predictions" / "eyepacs-1024-weak-model.csv"

    def test_a_published_wrong_order_is_named_with_its_mapping(self, aptos: Path):
        """APTOS 2019 with answers in alphabetical order: accuracy .067 as given, .815 in the order that is named."""
        said = evaluate(load_predictions(aptos), checklist()).reordered
        assert said is not None
        table = pd.read_csv(aptos)
        titles = ("no DR", "mild NPDR", "moderate NPDR", "severe NPDR", "PDR")
        pairs = table[["predicted", "predicted_remapped"]].drop_duplicates().itertuples(index=False)
        assert all(f"predicted {given} holds {titles[holds]}" in said for given, holds in pairs)
        assert "Then 2985 of 3662 images have the right answer, instead of 247" in said

    def test_the_mended_answers_are_not_accused(self, aptos: Path):
        """The same table with the order mended."""
        table = pd.read_csv(aptos)
        table["predicted"] = table.pop("predicted_remapped")
        assert evaluate(make_predictions(table, "t.csv", {}), checklist()).reordered is None

    def test_a_weak_model_is_not_accused(self, weak: Path):
        """Quadratic kappa .3 in the right order."""
        assert evaluate(load_predictions(weak), checklist()).reordered is None

    def test_a_weak_model_with_its_columns_reversed_is(self, weak: Path):
        """The most severe class first; what is named is at least that the last column holds no DR."""
        table = pd.read_csv(weak)
        table[list(PROBABILITIES)] = table[list(PROBABILITIES)[::-1]].to_numpy()
        said = evaluate(make_predictions(table, "t.csv", {}), checklist()).reordered
        assert said is not None
        assert "p_4 holds no DR" in said
