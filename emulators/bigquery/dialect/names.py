"""Resolution of names in a query: tables, views (replaced by subqueries), parameters, unnested arrays.

It works on the BigQuery tree, before `dialect.rewrite` rewrites its expressions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

import sqlglot
from sqlglot import exp

from imagebeam.emulators.bigquery.dialect.ai_calls import expand_embedding
from imagebeam.emulators.bigquery.dialect.functions.vector_search import expand_vector_search
from imagebeam.emulators.bigquery.dialect.nodes import call, invalid, not_implemented, string
from imagebeam.emulators.bigquery.dialect.types import quote

MAX_VIEW_DEPTH: Final = 16
_TABLE_KEYS: Final = frozenset(("this", "db", "catalog", "alias", "joins"))
_INFORMATION_SCHEMA: Final = "INFORMATION_SCHEMA."


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class TableId:
    """Full name of a table; ``str()`` is its form in BigQuery's messages."""

    project: str
    dataset: str
    table: str

    def __str__(self) -> str:
        return f"{self.project}:{self.dataset}.{self.table}"

    def resource(self) -> dict[str, str]:
        """Return the tableReference of the REST API."""
        return {"projectId": self.project, "datasetId": self.dataset, "tableId": self.table}


@dataclasses.dataclass(frozen=True, slots=True)
class Relation:
    """What a table name refers to.

    Attributes:
        duck: Name of the table in DuckDB; empty for a view.
        view: BigQuery SQL of a view, else None.
    """

    duck: str = ""
    view: str | None = None


class TableLookup(Protocol):
    """The lookups of the catalog that name resolution needs."""

    project: str

    def relation(self, table: TableId) -> Relation:
        """Return what a table name refers to; raise 404 for an unknown one."""

    def information_schema(self, project: str, dataset: str, view: str) -> str:
        """Return a DuckDB query with the rows of an INFORMATION_SCHEMA view."""

    def remote_model(self, model: TableId) -> Mapping[str, Any]:
        """Return the properties of a remote model; raise 404 for an unknown one."""

    def is_object_table(self, table: TableId) -> bool:
        """Return whether a table is an object table."""


def parse(sql: str) -> list[Any]:
    """Parse BigQuery SQL into its statements.

    Raises:
        ApiError: 400 with the position of the syntax error.
    """
    try:
        trees = [tree for tree in sqlglot.parse(sql, dialect="bigquery") if tree is not None]
    except sqlglot.errors.ParseError as problem:
        first = problem.errors[0] if problem.errors else {}
        near = str(first.get("highlight") or "")
        column = max(1, int(first.get("col") or 1) - len(near) + 1)
        raise invalid(
            f'Syntax error: Unexpected "{near}" ({first.get("description")}) at [{first.get("line", 1)}:{column}]'
        ) from problem
    except (sqlglot.errors.SqlglotError, RecursionError, ValueError) as problem:
        raise invalid(f"Syntax error: {str(problem).splitlines()[0]} at [1:1]") from problem
    for tree in trees:
        for node in list(tree.find_all(exp.ParseJSON)):
            if node.args.get("is_literal"):
                _narrow_json_literal(node)
    return trees


def _narrow_json_literal(node: exp.ParseJSON) -> None:
    """Apply the subscripts after a JSON literal to its value; sqlglot applies them to its text."""
    text: Any = node.this
    while isinstance(text, exp.Bracket | exp.Dot):
        text = text.this
    if text is not node.this and isinstance(text, exp.Literal):
        text.replace(exp.ParseJSON(this=text.copy(), is_literal=True))
        node.replace(node.this)


class Resolver:
    """Resolves the names of one statement.

    Args:
        catalog: The catalog.
        default: Project and dataset of table names without a dataset.
        parameters: DuckDB types of the query parameters by lower-case name.

    Attributes:
        tables: Tables and views that the statement refers to, including those of its views.
        models: Remote models that it calls.
        used: Names of the parameters that it uses.
    """

    def __init__(self, catalog: TableLookup, default: tuple[str, str] | None, parameters: Mapping[str, str]) -> None:
        self._catalog = catalog
        self._default = default
        self._parameters = parameters
        self.tables: dict[TableId, None] = {}
        self.models: dict[TableId, None] = {}
        self.used: set[str] = set()

    def table_id(self, table: exp.Table) -> TableId:
        """Return the full name of a table in the tree."""
        if not isinstance(table.this, exp.Identifier):
            raise not_implemented(f"the table function {table.sql('bigquery')[:60]}")
        project, dataset = table.catalog, table.db
        if not dataset:
            if self._default is None:
                raise invalid(f'Table "{table.name}" must be qualified with a dataset (e.g. dataset.table).')
            project, dataset = self._default
        return TableId(project or self._catalog.project, dataset, table.name)

    def resolve(self, tree: exp.Expression, depth: int = 0) -> None:
        """Replace all names of a tree in place. Its root must be an `exp.Paren`, so that the query can be replaced."""
        self._table_functions(tree)
        for node in list(tree.find_all(exp.Parameter)):
            self._parameter(node)
        for select in list(tree.find_all(exp.Select)):
            _name_columns(select)
        for unnest in list(tree.find_all(exp.Unnest)):
            _rewrite_unnest(unnest)
        for table in list(tree.find_all(exp.Table)):
            if not table.db and table.name.lower() in set(_visible_ctes(table)):
                continue
            self._table(table, depth)

    def _table_functions(self, tree: exp.Expression) -> None:
        """Replace table functions by queries, innermost first."""
        for table in reversed(list(tree.find_all(exp.Table, bfs=True))):
            if isinstance(table.this, exp.VectorSearch) and not table.db:
                _replace(table, expand_vector_search(table.this, self._is_stored), "_found")
            elif isinstance(table.this, exp.GenerateEmbedding):
                _replace(table, expand_embedding(table, self._model, self._is_object_table), "_embedded")

    def _model(self, table: exp.Table) -> Mapping[str, Any]:
        ident = self.table_id(table)
        found = self._catalog.remote_model(ident)
        self.models[ident] = None
        return found

    def _is_stored(self, table: exp.Table) -> bool:
        if not table.db and table.name.lower() in set(_visible_ctes(table)):
            return False
        ident = self.table_id(table)
        return self._catalog.relation(ident).view is None and not self._catalog.is_object_table(ident)

    def _is_object_table(self, table: exp.Table) -> bool:
        if not table.db and table.name.lower() in set(_visible_ctes(table)):
            return False
        return self._catalog.is_object_table(self.table_id(table))

    def _parameter(self, node: exp.Parameter) -> None:
        name = node.name.lower()
        if not name:
            raise not_implemented(f"the system variable {node.sql('bigquery')}")
        if name not in self._parameters:
            raise invalid(f"Query parameter '{node.name}' not found")
        self.used.add(name)

    def _table(self, table: exp.Table, depth: int) -> None:
        for key, value in table.args.items():
            if value and key not in _TABLE_KEYS:
                raise not_implemented(f"{key} of a table ({table.sql('bigquery')[:60]})")
        if isinstance(table.this, exp.Identifier) and table.name.upper().startswith(_INFORMATION_SCHEMA):
            view = table.name[len(_INFORMATION_SCHEMA) :].upper()
            rows = self._catalog.information_schema(table.catalog or self._catalog.project, table.db, view)
            _replace(table, sqlglot.parse_one(rows, dialect="duckdb"), view)
            return
        ident = self.table_id(table)
        relation = self._catalog.relation(ident)
        self.tables[ident] = None
        if relation.view is not None:
            if depth >= MAX_VIEW_DEPTH:
                raise invalid(f"Exceeded the maximum view depth of {MAX_VIEW_DEPTH}: {ident}")
            statements = parse(relation.view)
            if len(statements) != 1 or not isinstance(statements[0], exp.Query):
                raise not_implemented(f"the view {ident}: it is not a single query")
            inner = Resolver(self._catalog, None, {})
            holder = exp.Paren(this=statements[0])
            inner.resolve(holder, depth=depth + 1)
            self.tables.update(inner.tables)
            self.models.update(inner.models)
            _replace(table, _without_as_struct(holder.this), ident.table)
            return
        found = exp.to_table(relation.duck, dialect="duckdb")
        for key in ("this", "db", "catalog"):
            table.set(key, found.args.get(key))
        if not table.alias and not isinstance(table.parent, exp.Schema | exp.Insert | exp.TruncateTable):
            table.set("alias", exp.TableAlias(this=exp.to_identifier(ident.table, quoted=True)))


def _without_as_struct(query: Any) -> Any:
    """Return the query of a view; AS STRUCT has no effect there."""
    if isinstance(query, exp.Select) and query.args.get("kind") == "STRUCT":
        query.set("kind", None)
    return query


def _replace(table: exp.Table, query: Any, name: str) -> None:
    """Replace a table by a query with the same alias."""
    alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(name, quoted=True))
    joins = table.args.get("joins")
    subquery = exp.Subquery(this=query, alias=alias, joins=joins or None)
    table.replace(subquery)


def _visible_ctes(table: exp.Table) -> Iterator[str]:
    """Yield the names of CTEs that are visible to a table; a CTE sees only those before it."""
    node: Any = table
    inside: exp.CTE | None = None
    while node is not None:
        if isinstance(node, exp.CTE):
            inside = node
        with_ = node.args.get("with_")
        if isinstance(with_, exp.With):
            for cte in with_.expressions:
                if cte is inside and not with_.args.get("recursive"):
                    break
                yield cte.alias.lower()
        node = node.parent


def _name_columns(select: exp.Select) -> None:
    """Name columns without a name as BigQuery does: ``f0_`` in a result, ``_field_1`` in a struct."""
    struct = select.args.get("kind") == "STRUCT"
    unnamed = 0
    expressions = []
    for index, item in enumerate(select.expressions):
        if isinstance(item, exp.Alias | exp.Star) or item.is_star:
            expressions.append(item)
        elif isinstance(item, exp.Column | exp.Dot):
            expressions.append(exp.alias_(item.copy(), item.output_name, quoted=True))
        else:
            name = f"_field_{index + 1}" if struct else f"f{unnamed}_"
            unnamed += 1
            expressions.append(exp.alias_(item.copy(), name, quoted=True))
    select.set("expressions", expressions)
    kind = select.args.get("kind")
    if kind == "VALUE":
        if len(expressions) != 1 or not isinstance(select.parent, exp.Array):
            raise not_implemented("SELECT AS VALUE here")
        select.set("kind", None)
    if struct and select.parent is not None and not _is_top(select):
        _to_struct_value(select)
    elif struct:
        select.set("kind", None)


def _is_top(select: exp.Select) -> bool:
    return isinstance(select.parent, exp.Paren) and select.parent.parent is None


def _to_struct_value(select: exp.Select) -> None:
    """Rewrite SELECT AS STRUCT in a subquery: its row becomes one value."""
    select.set("kind", None)
    inner = select.copy()
    row = exp.to_identifier("_row", quoted=True)
    outer = exp.Select(expressions=[exp.alias_(exp.Column(this=row.copy()), "_row", quoted=True)])
    outer.set("from_", exp.From(this=exp.Subquery(this=inner, alias=exp.TableAlias(this=row.copy()))))
    select.replace(outer)


def _rewrite_unnest(unnest: exp.Unnest) -> None:
    """Rewrite UNNEST in FROM: without an alias the fields of structs are columns; WITH OFFSET counts from 0."""
    if not isinstance(unnest.parent, exp.From | exp.Join):
        return
    offset = unnest.args.get("offset")
    alias = unnest.args.get("alias")
    columns = alias.args.get("columns") if alias else None
    if not offset and columns:
        unnest.set("offset", None)
        return
    if len(unnest.expressions) != 1:
        raise not_implemented("UNNEST of several arrays")
    array = unnest.expressions[0]
    if columns:
        element: Any = exp.alias_(call("unnest", array.copy()), columns[0].name, quoted=True)
    else:
        element = call(
            "unnest", array.copy(), exp.Kwarg(this=exp.Var(this="max_depth"), expression=exp.Literal.number(2))
        )
    parts = [element]
    if offset:
        number = exp.Sub(
            this=call("generate_subscripts", array.copy(), exp.Literal.number(1)), expression=exp.Literal.number(1)
        )
        name = offset.name if isinstance(offset, exp.Identifier) else "offset"
        parts.append(exp.alias_(number, name, quoted=True))
    query = exp.Select(expressions=parts)
    unnest.replace(exp.Subquery(this=query, alias=exp.TableAlias(this=exp.to_identifier(f"_unnest_{id(unnest):x}"))))


def values_query(columns: Mapping[str, str], rows: list[tuple[Any, ...]]) -> str:
    """Return a DuckDB query of constant rows.

    Args:
        columns: DuckDB types by column name.
        rows: Strings, numbers, booleans or None.
    """

    def to_sql(value: Any) -> str:
        return "NULL" if value is None else str(value) if isinstance(value, bool | int) else string(value).sql("duckdb")

    casts = ", ".join(f"CAST({quote(name)} AS {kind}) AS {quote(name)}" for name, kind in columns.items())
    names = ", ".join(quote(name) for name in columns)
    body = ", ".join("(" + ", ".join(to_sql(value) for value in row) + ")" for row in rows)
    if not rows:
        body = "(" + ", ".join("NULL" for _ in columns) + ")"
    where = "" if rows else " WHERE FALSE"
    return f"SELECT {casts} FROM (VALUES {body}) AS v({names}){where}"
