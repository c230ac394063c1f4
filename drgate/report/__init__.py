"""An evaluation for people and for CI: one module a format, each with one `render`.

    from drgate.report.evaluation import html
    page = html.render(evaluation, certificate="certificate.json, key sha256:1f0c...")

Nothing is computed here: every number is one that the evaluation holds. All text of an evaluation is somebody else's
(image names, patients, the words of a checklist), so each format escapes all of it. `words` says things once for all,
`sections` holds the tables after page one.
This package imports nothing by itself, so that a terminal does not wait for plotly.
"""
