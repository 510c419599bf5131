"""Translation of one BigQuery statement to DuckDB: parsing, checks, name resolution, rewriting."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Final

from sqlglot import ErrorLevel, exp
from sqlglot.dialects import BigQuery
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import TokenType

from imagebeam.emulators.bigquery.dialect.expressions import type_name
from imagebeam.emulators.bigquery.dialect.names import Resolver, TableId, TableLookup, parse
from imagebeam.emulators.bigquery.dialect.nodes import invalid, not_implemented
from imagebeam.emulators.bigquery.dialect.resource_ddl import ResourceDdl, parse_resource_ddl
from imagebeam.emulators.bigquery.dialect.rewrite import rewrite
from imagebeam.emulators.bigquery.dialect.types import Field
from imagebeam.transforms.core.errors import ImagebeamError

_MILLISECONDS: Final = {"MINUTE": 60_000, "HOUR": 3_600_000, "DAY": 86_400_000}
_DML: Final = {"Insert": "INSERT", "Update": "UPDATE", "Delete": "DELETE", "Merge": "MERGE"}


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter for DuckDB.

    Attributes:
        duck_type: DuckDB type that the value is cast to.
        value: A string (also for numbers and times), bytes, a list or dict of them, or None.
    """

    duck_type: str
    value: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Statement:
    """A translated statement.

    Attributes:
        kind: The ``statementType`` of the API: SELECT, INSERT, CREATE_TABLE_AS_SELECT ...
        sql: DuckDB SQL of the query or DML; empty for DDL without a query.
        values: Values of the parameters of ``sql``.
        tables: Tables and views that it refers to.
        columns: Names of all columns in the statement; None if it has a ``*``.
        models: Remote models that it calls.
        target: Table, view or (with an empty table name) dataset that DDL or DML changes.
        options: Clauses of DDL: ``exists``, ``replace``, ``fields``, ``resource`` (properties of the table),
            ``view_query``, ``cascade``, ``added`` (columns), ``definition`` (`ResourceDdl`).
    """

    kind: str
    sql: str = ""
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tables: tuple[TableId, ...] = ()
    columns: frozenset[str] | None = None
    models: tuple[TableId, ...] = ()
    target: TableId | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def required_target(self) -> TableId:
        """The target of DDL or DML, which always have one."""
        if self.target is None:
            raise ValueError(f"{self.kind} has no target")
        return self.target


def translate_statement(
    sql: str, catalog: TableLookup, default: tuple[str, str] | None, parameters: Mapping[str, Parameter]
) -> Statement:
    """Translate one statement.

    Args:
        sql: BigQuery SQL, one statement.
        catalog: The catalog.
        default: Project and dataset of table names without a dataset.
        parameters: Query parameters by lower-case name.

    Raises:
        ApiError: 400 for an invalid statement, 404 for an unknown table, 501 for what is not implemented.
    """
    ddl = parse_resource_ddl(sql)
    if ddl is not None:
        return _translate_resource_ddl(ddl, catalog, default)
    statements = parse(sql)
    if not statements:
        raise invalid("Syntax error: Unexpected end of statement at [1:1]")
    if len(statements) > 1:
        raise not_implemented("scripts of several statements")
    tree = statements[0]
    try:
        return _Translator(sql, catalog, default, parameters).translate(tree)
    except SqlglotError as problem:
        raise not_implemented(str(problem).splitlines()[0]) from problem
    except ImagebeamError:
        raise
    except RecursionError as problem:
        raise invalid("The query is too deeply nested") from problem


class _Translator:
    def __init__(
        self, sql: str, catalog: TableLookup, default: tuple[str, str] | None, parameters: Mapping[str, Parameter]
    ) -> None:
        self._sql = sql
        self._parameters = parameters
        self._resolver = Resolver(catalog, default, {name: item.duck_type for name, item in parameters.items()})
        self._project = catalog.project

    def translate(self, tree: Any) -> Statement:
        if isinstance(tree, exp.Query):
            return self._translate_query("SELECT", tree)
        if type(tree).__name__ in _DML:
            return self._dml(tree)
        if isinstance(tree, exp.TruncateTable):
            target = self._resolver.table_id(tree.expressions[0])
            return Statement("TRUNCATE_TABLE", target=target, tables=(target,))
        if isinstance(tree, exp.Create):
            return self._create(tree)
        if isinstance(tree, exp.Drop):
            return self._drop(tree)
        if isinstance(tree, exp.Alter):
            return self._alter(tree)
        words = " ".join(self._sql.split()[:3])
        raise not_implemented(f"this statement: {words} ...")

    def _translate_query(self, kind: str, tree: Any, **more: Any) -> Statement:
        """Resolve the names of a query or DML, rewrite it and generate DuckDB SQL."""
        holder = exp.Paren(this=tree)
        self._resolver.resolve(holder)
        columns: set[str] | None = set()
        for node in holder.find_all(exp.Star, exp.Column):
            if not isinstance(node, exp.Column):
                if not isinstance(node.parent, exp.Count):
                    columns = None
                    break
            elif columns is not None:
                columns.update(part.name.lower() for part in node.parts)
        rewritten = rewrite(holder.this.pop())
        order = sorted(self._resolver.used)
        for node in list(rewritten.find_all(exp.Parameter)):
            name = node.name.lower()
            value = exp.Parameter(this=exp.Var(this=f"p{order.index(name)}"))
            duck_type = exp.DataType.build(self._parameters[name].duck_type, dialect="duckdb")
            cast = exp.Cast(this=value, to=duck_type)
            if node is rewritten:
                rewritten = cast
            else:
                node.replace(cast)
        return Statement(
            kind,
            rewritten.sql("duckdb", identify=True, unsupported_level=ErrorLevel.RAISE),
            {f"p{index}": self._parameters[name].value for index, name in enumerate(order)},
            tuple(self._resolver.tables),
            None if columns is None else frozenset(columns),
            tuple(self._resolver.models),
            **more,
        )

    def _dml(self, tree: Any) -> Statement:
        kind = _DML[type(tree).__name__]
        if kind == "DELETE" and not tree.args.get("this"):
            tables = tree.args.get("tables") or []
            tree.set("this", tables[0])
            tree.set("tables", None)
        if kind in ("UPDATE", "DELETE") and not tree.args.get("where"):
            raise invalid(f"{kind} must have a WHERE clause at [1:1]")
        table = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
        if not isinstance(table, exp.Table):
            raise not_implemented(f"this {kind}")
        target = self._resolver.table_id(table)
        known = {table.name.lower(), table.alias.lower()}
        if kind == "UPDATE":
            _strip_table_names(tree.expressions, known)
        if kind == "MERGE":
            for when in tree.args["whens"].expressions:
                then = when.args.get("then")
                if isinstance(then, exp.Update):
                    _strip_table_names(then.expressions, known)
                elif isinstance(then, exp.Insert) and isinstance(then.this, exp.Var):
                    raise not_implemented("INSERT ROW in MERGE: name the columns")
        return self._translate_query(kind, tree, target=target)

    def _create(self, tree: exp.Create) -> Statement:
        kind = str(tree.args.get("kind")).upper()
        for key in ("clone", "indexes", "no_schema_binding", "concurrently", "unique"):
            if tree.args.get(key):
                raise not_implemented(f"{key} of CREATE {kind}")
        options: dict[str, Any] = {"exists": bool(tree.args.get("exists")), "replace": bool(tree.args.get("replace"))}
        schema = tree.this if isinstance(tree.this, exp.Schema) else None
        table = schema.this if schema is not None else tree.this
        options["resource"] = _properties(tree.args.get("properties"), kind)
        if kind == "SCHEMA":
            dataset = TableId(table.catalog or self._project, table.db, "")
            return Statement("CREATE_SCHEMA", target=dataset, options=options)
        if kind not in ("TABLE", "VIEW") or not isinstance(table, exp.Table):
            raise not_implemented(f"CREATE {kind}")
        target = self._resolver.table_id(table)
        query = tree.args.get("expression")
        if kind == "VIEW":
            if schema is not None:
                raise not_implemented("a column list in CREATE VIEW")
            if not isinstance(query, exp.Query):
                raise invalid("CREATE VIEW needs AS SELECT")
            options["view_query"] = _text_after_as(self._sql)
            self._resolver.resolve(exp.Paren(this=query.copy()))
            return Statement("CREATE_VIEW", tables=tuple(self._resolver.tables), target=target, options=options)
        if schema is not None:
            options["fields"] = [_column(column) for column in schema.expressions]
        if query is None:
            if schema is None:
                raise invalid("CREATE TABLE needs columns or AS SELECT")
            return Statement("CREATE_TABLE", target=target, options=options)
        return self._translate_query("CREATE_TABLE_AS_SELECT", query, target=target, options=options)

    def _drop(self, tree: exp.Drop) -> Statement:
        kind = str(tree.args.get("kind")).upper()
        tables = tree.args.get("tables") or [tree.this]
        if kind not in ("TABLE", "VIEW", "SCHEMA") or len(tables) != 1:
            raise not_implemented(f"DROP {kind}")
        options = {"exists": bool(tree.args.get("exists")), "cascade": bool(tree.args.get("cascade"))}
        if kind == "SCHEMA":
            dataset = TableId(tables[0].catalog or self._project, tables[0].db, "")
            return Statement("DROP_SCHEMA", target=dataset, options=options)
        return Statement(f"DROP_{kind}", target=self._resolver.table_id(tables[0]), options=options)

    def _alter(self, tree: exp.Alter) -> Statement:
        actions = tree.args.get("actions") or []
        if str(tree.args.get("kind")).upper() != "TABLE" or not all(
            isinstance(item, exp.ColumnDef) for item in actions
        ):
            raise not_implemented("ALTER other than ALTER TABLE ... ADD COLUMN")
        added = [(_column(item), bool(item.args.get("exists"))) for item in actions]
        return Statement("ALTER_TABLE", target=self._resolver.table_id(tree.this), options={"added": added})


def _translate_resource_ddl(ddl: ResourceDdl, catalog: TableLookup, default: tuple[str, str] | None) -> Statement:
    parts = ddl.table or ddl.name
    target = None
    if not ddl.kind.endswith("_CONNECTION"):
        if len(parts) == 1 and default is not None:
            parts = [*default, *parts]
        if len(parts) not in (2, 3):
            raise invalid(f'"{".".join(parts)}" must be qualified with a dataset (e.g. dataset.table).')
        target = TableId(parts[0] if len(parts) == 3 else catalog.project, *parts[-2:])
    return Statement(ddl.kind, target=target, options={"definition": ddl})


def _strip_table_names(assignments: list[Any], known: set[str]) -> None:
    """Rewrite SET t.a = 1 to SET a = 1; reject SET of a field of a struct."""
    for item in assignments:
        column = item.this
        if not isinstance(column, exp.Column) or (column.table and column.table.lower() not in known):
            raise not_implemented(f"SET of a field ({item.sql('bigquery')[:60]})")
        column.set("table", None)


def _properties(node: exp.Properties | None, kind: str) -> dict[str, Any]:
    """Return OPTIONS, PARTITION BY and CLUSTER BY as properties of a table resource."""
    resource: dict[str, Any] = {}
    for item in node.expressions if node is not None else ():
        if type(item) is exp.Property:  # the other properties are subclasses
            name = str(item.this.name).lower()
            if name in ("description", "friendly_name", "location"):
                resource["friendlyName" if name == "friendly_name" else name] = item.args["value"].name
                continue
            if name == "labels":
                pairs = item.args["value"].find_all(exp.Tuple)
                resource["labels"] = {pair.expressions[0].name: pair.expressions[1].name for pair in pairs}
                continue
            if name == "expiration_timestamp":
                resource["expirationTime"] = _expiration(item.args["value"])
                continue
            raise not_implemented(f"the option {name} of CREATE {kind}")
        if isinstance(item, exp.PartitionedByProperty):
            resource["timePartitioning"] = _partitioning(item.this)
        elif isinstance(item, exp.Cluster | exp.ClusteredByProperty | exp.ClusterProperty):
            resource["clustering"] = {"fields": [column.name for column in item.expressions]}
        else:
            raise not_implemented(f"{item.sql('bigquery')[:60]} in CREATE {kind}")
    return resource


def _expiration(value: Any) -> str:
    """Return ``expirationTime`` in milliseconds for TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL n unit)."""
    unit = _MILLISECONDS.get(str(value.args.get("unit") or "").upper())
    count = value.args.get("expression")
    if not (
        isinstance(value, exp.TimestampAdd)
        and isinstance(value.this, exp.CurrentTimestamp)
        and isinstance(count, exp.Literal)
        and count.name.isdecimal()
        and unit
    ):
        raise not_implemented(f"expiration_timestamp = {value.sql('bigquery')[:60]}")
    return str(int(time.time() * 1000) + int(count.name) * unit)


def _partitioning(node: Any) -> dict[str, str]:
    unit = "DAY"
    if isinstance(node, exp.TimestampTrunc | exp.DateTrunc | exp.DatetimeTrunc):
        unit = node.args["unit"].name.upper()
    column = next(iter(node.find_all(exp.Column)), None)
    if column is None or unit not in ("HOUR", "DAY", "MONTH", "YEAR") or isinstance(node, exp.Anonymous):
        raise not_implemented(f"PARTITION BY {node.sql('bigquery')[:60]}")
    return {"type": unit, "field": column.name}


def _column(node: Any) -> Field:
    """Return a column of CREATE TABLE."""
    if not isinstance(node, exp.ColumnDef):
        raise not_implemented(f"{node.sql('bigquery')[:60]} in CREATE TABLE")
    mode, properties = "NULLABLE", []
    for constraint in node.args.get("constraints") or ():
        kind = constraint.args.get("kind")
        if isinstance(kind, exp.NotNullColumnConstraint):
            mode = "REQUIRED"
        elif isinstance(kind, exp.Properties) and all(
            str(item.this.name).lower() == "description" for item in kind.expressions
        ):
            properties.append(("description", kind.expressions[0].args["value"].name))
        else:
            raise not_implemented(f"{constraint.sql('bigquery')[:60]} in CREATE TABLE")
    field = field_of(node.name, node.args["kind"])
    return dataclasses.replace(field, mode=field.mode if field.repeated else mode, properties=tuple(properties))


def field_of(name: str, kind: exp.DataType) -> Field:
    """Return a field with a BigQuery SQL type."""
    if kind.this == exp.DataType.Type.ARRAY:
        return dataclasses.replace(field_of(name, kind.expressions[0]), mode="REPEATED")
    if kind.this == exp.DataType.Type.STRUCT:
        fields = tuple(field_of(item.name, item.args["kind"]) for item in kind.expressions)
        return Field(name, "RECORD", fields=fields)
    found = type_name(kind)
    if found is None:
        raise not_implemented(f"the type {kind.sql('bigquery')}")
    return Field(name, found)


def _text_after_as(sql: str) -> str:
    """Return the query of CREATE VIEW ... AS, as the user wrote it."""
    depth = 0
    for token in BigQuery().tokenize(sql):
        if token.token_type in (TokenType.L_PAREN, TokenType.L_BRACKET):
            depth += 1
        elif token.token_type in (TokenType.R_PAREN, TokenType.R_BRACKET):
            depth -= 1
        elif token.token_type == TokenType.ALIAS and depth == 0:
            return sql[token.end + 1 :].strip().rstrip(";").strip()
    raise invalid("CREATE VIEW needs AS")
