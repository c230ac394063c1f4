"""Reads Parquet files whose memory is known before they are decoded.

    table = read_parquet(Path("predictions.parquet"), "a table of predictions", PredictionsError)      # an Arrow table

Two megabytes of Parquet can decode to gigabytes: rows that are one run, one long text that a million rows repeat, pages
that are mostly zeros. So the footer, every page's header and the length of every text are summed before the bytes that
they stand for are made.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from drgate import limits
from drgate.content import HEAD, named
from drgate.errors import DrgateError

_HEADER: Final = 64 << 10
_FRONT_CODED: Final = 7
"""Parquet's DELTA_BYTE_ARRAY: a page of 1 MB can hold any number of texts of 1 MB."""
_DAMAGED: Final = (pa.ArrowException, ValueError, OSError, NotImplementedError)
_PICTURE_WORDS: Final = (" photograph", " picture")
_INTEGERS: Final = (3, 4, 5, 6)  # of Thrift's compact protocol: byte, i16, i32, i64


def read_parquet(path: Path, what: str, error: type[DrgateError], *, pictures: str | None = None) -> pa.Table:
    """The file's rows, text without dictionaries. Raises `error` for a file that is damaged or beyond the limits.

    pictures: a column of encoded pictures (`picture_column`), which stays as it is.
    """
    file = _opened(path, what, error, pictures)
    groups, total = [file.schema_arrow.empty_table()], 0
    try:
        for i in range(file.num_row_groups):
            group = file.read_row_group(i)
            for name, column in zip(group.column_names, group.columns, strict=True):
                for longest, size in map(_text, column.chunks):
                    total += size
                    if longest > limits.CELL and name != pictures:
                        raise error(f"{path} has a cell longer than {limits.CELL} characters; expected {what}.")
                    if total > limits.TABLE_TEXT:
                        raise error(f"{path} holds more than {limits.TABLE_TEXT >> 30} GB of text; expected {what}.")
            groups.append(group)
        plain = [_without_dictionaries(group, pictures) for group in groups]
        table = pa.concat_tables(plain)
    except _DAMAGED as problem:
        raise error(f"{path} is a damaged Parquet file, or has bytes that are no text; expected {what}.") from problem
    return table.replace_schema_metadata(file.schema_arrow.metadata)


def picture_column(path: Path, what: str, error: type[DrgateError]) -> str | None:
    """The column of encoded pictures: records of bytes and path, as Hugging Face writes them, or bytes; None without.

    Raises as `read_parquet` does.
    """
    schema = _opened(path, what, error, None, any_columns=True).schema_arrow
    if (found := next((field.name for field in schema if is_pictures(field.type)), None)) is not None:
        return str(found)
    if not any(map(_is_bytes, schema.types)) or any(map(pa.types.is_nested, schema.types)):
        return None
    file = _opened(path, what, error, None)
    for field in schema if file.num_row_groups else ():
        if _is_bytes(field.type):
            try:
                column = file.read_row_group(0, columns=[field.name])[field.name]
            except _DAMAGED as problem:
                raise error(f"{path} is a damaged Parquet file; expected {what}.") from problem
            if named((next((data for data, _ in records(column) if data), b"text"))[:HEAD]).endswith(_PICTURE_WORDS):
                return str(field.name)
    return None


def is_pictures(kind: pa.DataType) -> bool:
    """Whether a column of this type is one of pictures: records of bytes and, mostly, a path."""
    if not pa.types.is_struct(kind):
        return False
    fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    return "bytes" in fields and _is_bytes(fields["bytes"]) and fields.keys() <= {"bytes", "path"}


def records(column: pa.ChunkedArray) -> Iterator[tuple[bytes | None, str | None]]:
    """Bytes and path of each picture of a column; None for what is not given."""
    for chunk in column.chunks:
        if not pa.types.is_struct(chunk.type):
            yield from ((cell.as_py(), None) for cell in chunk)
            continue
        given = {chunk.type.field(i).name: chunk.field(i) for i in range(chunk.type.num_fields)}
        for i, valid in enumerate(chunk.is_valid().to_pylist()):
            path = given["path"][i].as_py() if valid and "path" in given else None
            yield given["bytes"][i].as_py() if valid else None, path


def read_arrow(path: Path, what: str, error: type[DrgateError]) -> pa.Table:
    """The rows of an Arrow stream, as Hugging Face's `datasets` saves it: mapped, not copied.

    Raises `error` for a file that is damaged, beyond the limits, or compressed: its size in memory is not known then.
    """
    try:
        if path.stat().st_size > limits.TABLE_BYTES:
            raise error(f"{path} is larger than {limits.TABLE_BYTES >> 30} GB; expected {what}.")
        with pa.memory_map(str(path)) as source:
            for message in pa.ipc.MessageReader.open_stream(source):
                if message.type == "dictionary" or (message.type == "record batch" and _compressed(message.metadata)):
                    raise error(f"{path} is compressed or has dictionaries; save it as Parquet. Expected {what}.")
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        table.validate(full=True)
        any(is_pictures(field.type) for field in table.schema if field.name)  # names that are no text
    except FileNotFoundError as problem:
        raise error(f"{path} does not exist; expected {what}.") from problem
    except (*_DAMAGED, struct.error) as problem:
        raise error(f"{path} is a damaged Arrow file, or no stream of Arrow; expected {what}.") from problem
    if table.num_columns > limits.TABLE_COLUMNS or table.num_rows > limits.TABLE_ROWS:
        raise error(
            f"{path} has more than {limits.TABLE_ROWS} rows or {limits.TABLE_COLUMNS} columns; expected {what}."
        )
    return table


def _compressed(metadata: pa.Buffer) -> bool:
    """Whether the flatbuffer of a message says that the body of its record batch is compressed.

    Message: 0 version, 1 kind of header, 2 header, 3 length. RecordBatch: 0 length, 1 nodes, 2 buffers, 3 compression.
    """
    data = metadata.to_pybytes()

    def field(table: int, number: int) -> int:
        """Where a field of a table is; 0 where it has none."""
        vtable = table - struct.unpack_from("<i", data, table)[0]
        if 4 + 2 * number >= struct.unpack_from("<H", data, vtable)[0]:
            return 0
        at = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0]
        return table + at if at else 0

    header = field(struct.unpack_from("<I", data, 0)[0], 2)
    return bool(field(header + struct.unpack_from("<I", data, header)[0], 3))


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def read_metadata(path: Path, what: str, error: type[DrgateError]) -> dict[bytes, bytes]:
    """The keys and values in the footer, without the rows; raises as `read_parquet` does."""
    return dict(_opened(path, what, error).schema_arrow.metadata or {})


def first_nan(table: pa.Table, column: str) -> int | None:
    """The first row (0-based) with a NaN, which is not an empty cell; None without one or without such a column."""
    if column not in table.column_names or not pa.types.is_floating(table.schema.field(column).type):
        return None
    row = pc.index(pc.is_nan(table[column]), True).as_py()
    return None if row < 0 else row


def _without_dictionaries(table: pa.Table, pictures: str | None) -> pa.Table:
    """The table with text as text. Raises ArrowInvalid for bytes that are none."""
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name == pictures:
            columns.append(column)
            continue
        if pa.types.is_dictionary(column.type):
            decoded = [chunk.dictionary_decode() for chunk in column.chunks]
            column = pa.chunked_array(decoded, type=column.type.value_type)
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            column = column.cast(pa.string())  # as some programs write text; other bytes are no cell
        columns.append(column)
    return pa.table(columns, names=table.column_names)


def _text(column: pa.Array) -> tuple[int, int]:
    """Bytes of the longest cell and of all cells together."""
    if pa.types.is_struct(column.type):
        return _text(column.field("bytes"))
    if pa.types.is_dictionary(column.type):
        longest, _ = _text(column.dictionary)
        if not longest:
            return 0, 0
        lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
        return longest, pc.sum(lengths).as_py() or 0
    kinds = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary)
    if not any(kind(column.type) for kind in kinds):
        return 0, 0
    lengths = pc.binary_length(column)
    return pc.max(lengths).as_py() or 0, pc.sum(lengths).as_py() or 0


def _opened(
    path: Path, what: str, error: type[DrgateError], pictures: str | None = None, *, any_columns: bool = False
) -> pq.ParquetFile:
    """The file, once everything that decides its size in memory is within the limits.

    any_columns: columns of records and lists are let through, for the schema alone.
    """
    try:
        with path.open("rb") as handle:
            length = handle.seek(0, 2)
            if length > limits.TABLE_BYTES:
                raise error(f"{path} is larger than {limits.TABLE_BYTES >> 30} GB; expected {what}.")
            handle.seek(max(0, length - 8))
            tail = handle.read(8)
            if tail[4:] != b"PAR1" or struct.unpack("<I", tail[:4])[0] > min(limits.PARQUET_FOOTER, length):
                raise error(f"{path} is not a Parquet file, or is cut off; expected {what}.")
            footer = {
                "thrift_string_size_limit": limits.PARQUET_FOOTER,
                "thrift_container_size_limit": limits.PARQUET_PAGES,
            }
            metadata = pq.ParquetFile(path, **footer).metadata
            # Read as dictionaries, in which a repeated text takes four bytes.
            columns = (metadata.schema.column(i) for i in range(metadata.num_columns))
            texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
            file = pq.ParquetFile(path, metadata=metadata, read_dictionary=texts, **footer)
            if trouble := _too_large(file, pictures, any_columns) or _pages_too_large(file.metadata, handle):
                raise error(f"{path} {trouble}; expected {what}.")
    except _DAMAGED as problem:
        raise error(f"{path} is a damaged Parquet file; expected {what}.") from problem
    return file


def _too_large(file: pq.ParquetFile, pictures: str | None, any_columns: bool) -> str:
    """What the footer says that is beyond the limits; empty where nothing is."""
    rows, columns = file.metadata.num_rows, file.metadata.num_columns
    if columns > limits.TABLE_COLUMNS:
        return f"has {columns} columns, more than {limits.TABLE_COLUMNS}"
    if rows > limits.TABLE_ROWS or rows * columns > limits.TABLE_CELLS:
        return f"has {rows} rows of {columns} cells, more than {limits.TABLE_ROWS} rows or {limits.TABLE_CELLS} cells"
    for i in range(0 if any_columns else columns):
        column = file.metadata.schema.column(i)
        if pictures is not None and column.path in (f"{pictures}.bytes", f"{pictures}.path"):
            continue
        if column.max_repetition_level or "." in column.path or column.length > limits.PARQUET_FIXED:
            return f"has lists, records or long binary values in column {i + 1}; remove it"
    return ""


def _pages_too_large(metadata: pq.FileMetaData, handle: IO[bytes]) -> str:
    """What the headers of the pages say that is beyond the limits: the footer's own sums may be wrong."""
    size = pages = rows = 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        rows += group.num_rows
        for j in range(group.num_columns):
            for uncompressed, encoding in _pages(group.column(j), handle):
                size, pages = size + uncompressed, pages + 1
                if encoding == _FRONT_CODED:
                    return "is written with the encoding DELTA_BYTE_ARRAY; write it again, for example with pandas"
                if size > limits.TABLE_TEXT or pages > limits.PARQUET_PAGES:
                    return f"holds more than {limits.TABLE_TEXT >> 30} GB after decompression, or too many pages"
    return "" if rows == metadata.num_rows else "is damaged: its footer contradicts itself"


def _pages(column: pq.ColumnChunkMetaData, handle: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Uncompressed bytes and encoding of each page of a column, from the pages' own headers."""
    dictionary = column.dictionary_page_offset if column.has_dictionary_page else None
    position = min(column.data_page_offset, dictionary or column.data_page_offset)
    end = position + column.total_compressed_size
    while position < end:
        handle.seek(position)
        fields, length = _struct(handle.read(_HEADER), 0)
        header = fields.get(5) or fields.get(8) or {}  # of a data page, version 1 or 2
        if fields.get(2, -1) < 0 or fields.get(3, -1) < 0 or not isinstance(header, dict):
            raise ValueError("a page without a length")
        yield fields[2], header.get(2 if 5 in fields else 4, 0)
        position += length + fields[3]


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Integers and structures by field of a structure in Thrift's compact protocol, and where it ends.

    Raises ValueError where the bytes end before it, or hold what no page header holds.
    """
    fields: dict[int, Any] = {}
    field = 0
    while at < len(data):
        kind, step = data[at] & 15, data[at] >> 4
        at += 1
        if kind == 0:
            return fields, at
        if step:
            field += step
        else:
            field, at = _varint(data, at)
            field = _signed(field)
        if kind == 3:
            at += 1
        elif kind in _INTEGERS:
            value, at = _varint(data, at)
            fields[field] = _signed(value)
        elif kind == 7:
            at += 8
        elif kind == 8:
            length, at = _varint(data, at)
            at += length
        elif kind == 12 and depth < 4:
            fields[field], at = _struct(data, at, depth + 1)
        elif kind not in (1, 2):
            raise ValueError("not a page header")
    raise ValueError("a page header without an end")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
        shift += 7
    raise ValueError("a number without an end")


def _signed(value: int) -> int:
    return (value >> 1) ^ -(value & 1)
