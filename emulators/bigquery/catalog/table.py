"""A table: its properties, and the DuckDB statements that create, alter and measure it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from imagebeam.emulators.bigquery.catalog.store import Store
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.bigquery.dialect.types import Field, quote
from imagebeam.emulators.core.http import ApiError

Resource = dict[str, Any]


@dataclasses.dataclass(slots=True)
class Table:
    """A table or view.

    Attributes:
        ident: Its full name.
        resource: Its properties, in the shape of the API.
        fields: Its columns; those of a view are determined when it is created.
        version: Number of changes of its rows.
        sizes: A version, and its bytes per column with the number of rows under ``""``; None if not measured.
    """

    ident: TableId
    resource: Resource
    fields: tuple[Field, ...]
    version: int = 0
    sizes: tuple[int, dict[str, int]] | None = None

    @property
    def view(self) -> str | None:
        """BigQuery SQL of a view, else None."""
        body = self.resource.get("view")
        return str(body["query"]) if body else None

    @property
    def kind(self) -> str:
        """Type in the API: ``TABLE``, ``VIEW`` or, for an object table, ``EXTERNAL``."""
        if self.view is not None:
            return "VIEW"
        return "EXTERNAL" if self.resource.get("externalDataConfiguration") else "TABLE"

    def field(self, name: str) -> Field | None:
        """Return the column with this name (case-insensitive), or None."""
        return next((field for field in self.fields if field.name.lower() == name.lower()), None)


def create_sql(store: Store, table: Table) -> list[str]:
    """Return the statements that create a table; none for a view or an external table."""
    if table.kind != "TABLE" or not table.fields:
        return []
    columns = ", ".join(_definition(field) for field in table.fields)
    return [f"CREATE TABLE {store.duck_name(table.ident.dataset, table.ident.table)} ({columns})"]


def _definition(field: Field) -> str:
    return f"{quote(field.name)} {field.duck_type()}{' NOT NULL' if field.mode == 'REQUIRED' else ''}"


def alter_sql(store: Store, table: Table, wanted: Sequence[Field]) -> list[str]:
    """Return the statements that change the schema of a table.

    Columns may be added, and REQUIRED may become NULLABLE.

    Raises:
        ApiError: 400 for any other change, 501 for changes of a RECORD.
    """
    name = store.duck_name(table.ident.dataset, table.ident.table)
    refusal = f"Provided Schema does not match Table {table.ident}."
    if not table.fields:
        return create_sql(store, dataclasses.replace(table, fields=tuple(wanted)))
    new = {field.name.lower(): field for field in wanted}
    statements = []
    for old in table.fields:
        field = new.pop(old.name.lower(), None)
        if field is None:
            raise ApiError(400, f"{refusal} Field {old.name} is missing in new schema", reason="invalid")
        if field.duck_type() != old.duck_type():
            if field.type == old.type == "RECORD" and field.repeated == old.repeated:
                raise not_implemented(f"changing the fields of the RECORD {old.name}")
            raise ApiError(
                400,
                f"{refusal} Field {old.name} has changed type from {old.sql_type()} to {field.sql_type()}",
                reason="invalid",
            )
        if field.mode != old.mode:
            if (old.mode, field.mode) != ("REQUIRED", "NULLABLE"):
                raise ApiError(
                    400,
                    f"{refusal} Field {old.name} has changed mode from {old.mode} to {field.mode}",
                    reason="invalid",
                )
            statements.append(f"ALTER TABLE {name} ALTER COLUMN {quote(old.name)} DROP NOT NULL")
    for field in new.values():
        if field.mode == "REQUIRED":
            raise ApiError(
                400,
                f"{refusal} Cannot add required fields to an existing schema. (field: {field.name})",
                reason="invalid",
            )
        statements.append(f"ALTER TABLE {name} ADD COLUMN {quote(field.name)} {field.duck_type()}")
    return statements


_FIXED_SIZES: Final = {"BOOLEAN": 1, "NUMERIC": 16, "BIGNUMERIC": 32, "GEOGRAPHY": 24}


def bytes_sql(field: Field) -> str:
    """Return the DuckDB expression for the bytes of a column, as BigQuery counts them."""
    column = quote(field.name)
    if field.repeated and field.type in ("INTEGER", "FLOAT", "BOOLEAN", "NUMERIC", "BIGNUMERIC"):
        return f"SUM(len({column})) * {_FIXED_SIZES.get(field.type, 8)}"  # avoids a conversion of vectors to text
    if field.repeated or field.type == "RECORD":
        return f"SUM(strlen(CAST(to_json({column}) AS VARCHAR)))"
    if field.type in ("STRING", "JSON"):
        return f"SUM(strlen({column}) + 2)"
    if field.type == "BYTES":
        return f"SUM(octet_length({column}) + 2)"
    return f"COUNT({column}) * {_FIXED_SIZES.get(field.type, 8)}"
