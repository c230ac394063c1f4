"""The checklist as JUnit XML: one test case a criterion, for the test tabs of CI systems.

    text = render(evaluation)

A required criterion that is not PASS is a failure whose type is its outcome. An advisory one never fails the suite: one
that was not met says so on its standard output, one that could not be assessed is skipped.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET  # only writes

from drgate.evaluation import Evaluation
from drgate.report import words


def render(evaluation: Evaluation) -> str:
    """The whole document. Characters that XML cannot hold are written out (`words.visible`)."""
    lines = words.lines(evaluation)
    suite_name = f"drgate {words.checklist_name(evaluation)}"
    met = ("PASS", "OBSERVED") if evaluation.exit_code == 0 else ("PASS",)
    failures = sum(line.required and line.status not in met for line in lines)
    skipped = sum(not line.required and line.status == "NOT_ASSESSED" for line in lines)
    totals = {"tests": str(len(lines)), "failures": str(failures), "errors": "0", "skipped": str(skipped)}
    root = ET.Element("testsuites", {"name": "drgate", **totals})
    when = {"timestamp": words.visible(evaluation.look.time)} if evaluation.look.time else {}
    suite = ET.SubElement(root, "testsuite", {"name": suite_name, **totals, **when})
    properties = ET.SubElement(suite, "properties")
    facts = [("verdict", evaluation.verdict), ("headline", words.headline(evaluation)), *words.judged(evaluation)]
    for name, value in facts:
        ET.SubElement(properties, "property", {"name": name, "value": value})
    for line in lines:
        case = ET.SubElement(suite, "testcase", {"classname": suite_name, "name": line.id})
        parts = (line.counts, line.value, line.interval, line.all_comers)
        measured = ", ".join(filter(None, parts)) or "no estimate"
        text_of = f"{line.title} ({line.advice}): {line.outcome}.\n{measured}; {line.rule} {line.basis}.\n{line.reason}"
        if line.required and line.status not in met:
            failure = ET.SubElement(
                case, "failure", {"type": line.status, "message": f"{line.title}: {line.outcome}. {line.reason}"}
            )
            failure.text = text_of
            continue
        if line.status == "NOT_ASSESSED":
            ET.SubElement(case, "skipped", {"message": line.reason})
        unmet = line.status in ("FAIL", "INSUFFICIENT")
        ET.SubElement(case, "system-out").text = f"Warning. {text_of}" if unmet else text_of
    read_first = [*words.under_headline(evaluation), *map(words.visible, evaluation.page_one)]
    ET.SubElement(suite, "system-out").text = "\n".join(read_first)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
