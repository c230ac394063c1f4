"""What a reader accepts at most: bytes, depth, rows, time. All limits are here, so that no reader is without one.

Every file and every answer of another program is read by a function of `drgate.files` or `drgate.parquet` with a limit
from this table; `tests/test_limits.py` refuses any other way to read. Files of any size are only hashed, in parts.
Honest sizes: a checklist has 4 KB, the record of a training run with 1,000 epochs 1 MB, predictions for a million
images 200 MB.
"""

from __future__ import annotations

from typing import Final

KEY_BYTES: Final = 64 << 10
YAML_BYTES: Final = 64 << 10
"""Checklists, parameters of a training run, DVC files. YAML is slow: 64 KB take up to two seconds."""
TOML_BYTES: Final = 1 << 20
TOML_KEY_PARTS: Final = 100
"""Parts of a dotted key (a.b.c); reading one takes time with their square."""
LIST_BYTES: Final = 1 << 20
"""Lists of trusted and revoked keys."""
WAIVER_BYTES: Final = 256 << 10
CERTIFICATE_BYTES: Final = 16 << 20
JSON_BYTES: Final = 64 << 20
JSON_VALUES: Final = 5_000_000
"""Values in a JSON file, which take up to 100 bytes of memory each."""
DEPTH: Final = 50
"""Objects and lists inside each other, in JSON, YAML and TOML."""
INTEGER_BITS: Final = 64
CHAIN_BYTES: Final = 256 << 20
"""A chain of looks: 20 bytes an image of each test set, and 2 an image of each look."""
RECORD_BYTES: Final = 64 << 20
"""The record of a training run."""
LINES: Final = 200_000
"""Lines of a chain or a record."""
LOG_BYTES: Final = 4 << 20
LOG_LINE: Final = 4_000
"""Characters in a line of a hand-kept log, also of a command over several lines."""
LOG_VALUES: Final = 100
"""Values of one parameter of an attempt there, and amounts that all attempts share."""

MANIFEST_BYTES: Final = 256 << 20
"""The labels of a test set in a repository, of which the gate reads the header and the digest."""
TABLE_BYTES: Final = 1 << 30
TABLE_ROWS: Final = 10_000_000
TABLE_COLUMNS: Final = 1_000
TABLE_CELLS: Final = 100_000_000
TABLE_TEXT: Final = 1 << 30
"""Bytes of all cells of a table together, after decompression."""
CELL: Final = 64 << 10
"""Characters in a cell of a table."""
ROW: Final = 1 << 20
"""Characters in a row of a CSV."""
BATCH: Final = 1 << 20
"""Cells of a CSV that are converted at a time."""
ARCHIVE_BYTES: Final = 256 << 20
"""All parts of a zip file (Excel, NumPy) together, after decompression."""
ARCHIVE_PARTS: Final = 10_000
ARCHIVE_TAGS: Final = 2_000_000
"""Beginnings of XML elements in an Excel file: about a million cells, which take some seconds."""
EXCEL_ROWS: Final = 1 << 20
"""What Excel itself can write."""
PARQUET_FOOTER: Final = 16 << 20
PARQUET_FIXED: Final = 64
"""Bytes of a value in a Parquet column of values of equal length, such as decimal numbers."""
PARQUET_PAGES: Final = 1_000_000
HISTORY_ROWS: Final = 100_000
"""Evaluations in a training history from elsewhere."""

TRACKED_FILES: Final = 1_000_000
"""Files in a commit."""
FILES: Final = 5_000_000
"""Files in a folder, such as images, or below it."""
BUCKET_OBJECTS: Final = 1_000_000
"""Objects of a bucket below the folder that is named."""
NAME_BYTES: Final = 200
"""A part of an object's name: file systems allow 255 bytes, and an unfinished file has a longer name."""
CERTIFICATE_FILES: Final = 100_000
"""Files below a folder of certificates; each is opened."""

GUARDED_FILES: Final = 100
"""Files of a repository that match its policy's models: each takes a verdict."""
SUSPECTED_FILES: Final = 1_000
"""Files there that look like models."""
LINK_BYTES: Final = 4096
"""The target of a symbolic link."""
THROUGH_LINKS: Final = 100_000
"""Files that links to folders lead to, where they are compared with the policy's models."""
PATTERN: Final = 1_000
"""Characters in a pattern of a policy."""
PATTERNS: Final = 100
"""Patterns of models in a policy, and of what is none; test sets."""
POINTERS_BYTES: Final = 512 << 10
"""All DVC files of a change that are in another form than the usual one; YAML is slow."""
GIT_SECONDS: Final = 30
"""Time of one question to Git, which matches what a .gitignore or .gitattributes says by going back and forth."""
GIT_ADD_SECONDS: Final = 1800
"""Time to stage a model of any size."""
PIPELINE_BYTES: Final = 256 << 10
"""All of DVC's pipelines in a commit; YAML is slow."""
ATTRIBUTES_LINE: Final = 2048
"""The longest line of attributes that newer versions of Git read."""
COMPARED_BYTES: Final = 64 << 20
"""A file whose line ends are compared with what attributes make of them."""
JUDGED_CERTIFICATES: Final = 256 << 20
"""Bytes of all certificates and statements in a repository that the gate judges."""
JUDGED_FOUND: Final = 500
"""Certificates and statements there that name guarded files."""
JUDGED_TABLE: Final = 256 << 20
JUDGED_TABLES: Final = 1 << 30
"""Bytes of one table of predictions there, and of all that are looked into."""
ATTRIBUTES_BYTES: Final = 1 << 20
"""A .gitattributes file."""

SIGNATURE_BYTES: Final = 64 << 10
SIGNER_SECONDS: Final = 600.0
"""Time for a signing command; somebody may have to type a PIN or touch a token."""

GRADER_LOAD_SECONDS: Final = 300.0
"""Time for a grader in Python to load, besides one second for each 8 MB of its weights."""
GRADER_SECONDS: Final = 60.0
"""Time for a batch, besides `GRADER_IMAGE_SECONDS` for each of its images."""
GRADER_IMAGE_SECONDS: Final = 30.0
GRADER_MEMORY: Final = 8 << 30
"""Memory of each of its processes, besides four times its weights. A GPU's own memory does not count."""
GRADER_FILES: Final = 1_000
"""Its files of weights, and modules of its package."""
GRADER_CODE: Final = 64 << 20
"""Bytes of all modules of its package."""
GRADER_HEAD: Final = 1 << 20
"""What it says of itself, and what it had printed at its end."""

SHOWN: Final = 80
"""Characters of a value that a message repeats."""
MESSAGE: Final = 2_000
"""Characters of a message on the terminal."""
