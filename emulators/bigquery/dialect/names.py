"""What a query's names stand for: tables, views (put in as subqueries), parameters, unnested arrays.

All of it happens on BigQuery's tree, before `bigquery_rewrite` changes what expressions mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

import sqlglot
from sqlglot import exp

from imagebeam.emulators.bigquery.dialect.ai_calls import expand_embedding
from imagebeam.emulators.bigquery.dialect.functions.vector import expand_vector_search
from imagebeam.emulators.bigquery.dialect.nodes import call, invalid, not_implemented, text
from imagebeam.emulators.bigquery.dialect.types import quote

MAX_VIEW_DEPTH: Final = 16
_TABLE_KEYS: Final = frozenset(("this", "db", "catalog", "alias", "joins"))
_INFORMATION_SCHEMA: Final = "INFORMATION_SCHEMA."


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class TableId:
    """A table's full name; ``str()`` gives it as BigQuery's messages do."""

    project: str
    dataset: str
    table: str

    def __str__(self) -> str:
        return f"{self.project}:{self.dataset}.{self.table}"

    def resource(self) -> dict[str, str]:
        """Return the REST API's tableReference."""
        return {"projectId": self.project, "datasetId": self.dataset, "tableId": self.table}


@dataclasses.dataclass(frozen=True, slots=True)
class Relation:
    """What a name turned out to be.

    Attributes:
        duck: DuckDB's name of the table (or a query in parentheses), for anything that is no view.
        view: BigQuery SQL of a view.
    """

    duck: str = ""
    view: str | None = None


class Names(Protocol):
    """Who knows the tables: the catalog."""

    project: str

    def relation(self, table: TableId) -> Relation:
        """Look a table or view up; raises the 404 of BigQuery."""

    def information_schema(self, project: str, dataset: str, view: str) -> str:
        """Return a DuckDB query with the rows of an INFORMATION_SCHEMA view."""

    def remote_model(self, model: TableId) -> Mapping[str, Any]:
        """Return what is kept of a remote model; raises the 404 of BigQuery."""

    def is_object_table(self, table: TableId) -> bool:
        """Say whether a table is one over Cloud Storage."""


def parse(sql: str) -> list[Any]:
    """Parse BigQuery SQL into its statements.

    Raises:
        ApiError: 400 with the position, for what is no SQL.
    """
    try:
        return [tree for tree in sqlglot.parse(sql, dialect="bigquery") if tree is not None]
    except sqlglot.errors.ParseError as problem:
        first = problem.errors[0] if problem.errors else {}
        near = str(first.get("highlight") or "")
        column = max(1, int(first.get("col") or 1) - len(near) + 1)
        raise invalid(
            f'Syntax error: Unexpected "{near}" ({first.get("description")}) at [{first.get("line", 1)}:{column}]'
        ) from problem
    except (sqlglot.errors.SqlglotError, RecursionError, ValueError) as problem:
        raise invalid(f"Syntax error: {str(problem).splitlines()[0]} at [1:1]") from problem


class Resolver:
    """Resolves the names of one statement.

    Args:
        names: The catalog.
        default: Project and dataset of names without one.
        parameters: Names (lower case) of the query's parameters, to the DuckDB types.

    Attributes:
        tables: Tables and views that the statement refers to, views' own tables too.
        models: Remote models that it asks.
        used: Parameters that it uses.
    """

    def __init__(self, names: Names, default: tuple[str, str] | None, parameters: Mapping[str, str]) -> None:
        self._names = names
        self._default = default
        self._parameters = parameters
        self.tables: dict[TableId, None] = {}
        self.models: dict[TableId, None] = {}
        self.used: set[str] = set()

    def table_id(self, table: exp.Table) -> TableId:
        """Return the full name that a table of the tree stands for."""
        if not isinstance(table.this, exp.Identifier):
            raise not_implemented(f"the table function {table.sql('bigquery')[:60]}")
        project, dataset = table.catalog, table.db
        if not dataset:
            if self._default is None:
                raise invalid(f'Table "{table.name}" must be qualified with a dataset (e.g. dataset.table).')
            project, dataset = self._default
        return TableId(project or self._names.project, dataset, table.name)

    def resolve(self, tree: exp.Expression, depth: int = 0) -> None:
        """Replace every name in place; the tree's root has to be a :class:`exp.Paren` that holds it."""
        self._table_functions(tree)
        for node in list(tree.find_all(exp.Parameter)):
            self._parameter(node)
        for select in list(tree.find_all(exp.Select)):
            _name_columns(select)
        for unnest in list(tree.find_all(exp.Unnest)):
            _unnest(unnest)
        for table in list(tree.find_all(exp.Table)):
            if not table.db and table.name.lower() in set(_visible_ctes(table)):
                continue
            self._table(table, depth)

    def _table_functions(self, tree: exp.Expression) -> None:
        """Put queries in the place of calls in FROM; the innermost first."""
        for table in reversed(list(tree.find_all(exp.Table, bfs=True))):
            if isinstance(table.this, exp.VectorSearch) and not table.db:
                _replace(table, expand_vector_search(table.this, self._is_stored), "_found")
            elif isinstance(table.this, exp.GenerateEmbedding):
                _replace(table, expand_embedding(table, self._model, self._is_object_table), "_embedded")

    def _model(self, table: exp.Table) -> Mapping[str, Any]:
        ident = self.table_id(table)
        found = self._names.remote_model(ident)
        self.models[ident] = None
        return found

    def _is_stored(self, table: exp.Table) -> bool:
        if not table.db and table.name.lower() in set(_visible_ctes(table)):
            return False
        ident = self.table_id(table)
        return self._names.relation(ident).view is None and not self._names.is_object_table(ident)

    def _is_object_table(self, table: exp.Table) -> bool:
        if not table.db and table.name.lower() in set(_visible_ctes(table)):
            return False
        return self._names.is_object_table(self.table_id(table))

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
            rows = self._names.information_schema(table.catalog or self._names.project, table.db, view)
            _replace(table, sqlglot.parse_one(rows, dialect="duckdb"), view)
            return
        ident = self.table_id(table)
        relation = self._names.relation(ident)
        self.tables[ident] = None
        if relation.view is not None:
            if depth >= MAX_VIEW_DEPTH:
                raise invalid(f"Exceeded the maximum view depth of {MAX_VIEW_DEPTH}: {ident}")
            statements = parse(relation.view)
            if len(statements) != 1 or not isinstance(statements[0], exp.Query):
                raise not_implemented(f"the view {ident}: it is no single query")
            inner = Resolver(self._names, None, {})
            holder = exp.Paren(this=statements[0])
            inner.resolve(holder, depth=depth + 1)
            self.tables.update(inner.tables)
            self.models.update(inner.models)
            _replace(table, _top(holder.this), ident.table)
            return
        found = exp.to_table(relation.duck, dialect="duckdb")
        for key in ("this", "db", "catalog"):
            table.set(key, found.args.get(key))
        if not table.alias and not isinstance(table.parent, exp.Schema | exp.Insert | exp.TruncateTable):
            table.set("alias", exp.TableAlias(this=exp.to_identifier(ident.table, quoted=True)))


def _top(query: Any) -> Any:
    """The query of a view, as a subquery."""
    if isinstance(query, exp.Select) and query.args.get("kind") == "STRUCT":
        query.set("kind", None)
    return query


def _replace(table: exp.Table, query: Any, name: str) -> None:
    """Put a query in a table's place, under the alias that the rest of the statement knows."""
    alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(name, quoted=True))
    joins = table.args.get("joins")
    subquery = exp.Subquery(this=query, alias=alias, joins=joins or None)
    table.replace(subquery)


def _visible_ctes(table: exp.Table) -> Iterator[str]:
    """Names of the WITH clauses that a table stands under; a CTE sees only those before it."""
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
    """Give columns without a name BigQuery's: ``f0_`` in a result, ``_field_1`` in a struct."""
    struct = select.args.get("kind") == "STRUCT"
    nameless = 0
    expressions = []
    for index, item in enumerate(select.expressions):
        if isinstance(item, exp.Alias | exp.Star) or item.is_star:
            expressions.append(item)
        elif isinstance(item, exp.Column | exp.Dot):
            expressions.append(exp.alias_(item.copy(), item.output_name, quoted=True))
        else:
            name = f"_field_{index + 1}" if struct else f"f{nameless}_"
            nameless += 1
            expressions.append(exp.alias_(item.copy(), name, quoted=True))
    select.set("expressions", expressions)
    kind = select.args.get("kind")
    if kind == "VALUE":
        if len(expressions) != 1 or not isinstance(select.parent, exp.Array):
            raise not_implemented("SELECT AS VALUE here")
        select.set("kind", None)
    if struct and select.parent is not None and not _is_top(select):
        _as_struct(select)
    elif struct:
        select.set("kind", None)


def _is_top(select: exp.Select) -> bool:
    return isinstance(select.parent, exp.Paren) and select.parent.parent is None


def _as_struct(select: exp.Select) -> None:
    """SELECT AS STRUCT in a subquery: its row as one value."""
    select.set("kind", None)
    inner = select.copy()
    row = exp.to_identifier("_row", quoted=True)
    outer = exp.Select(expressions=[exp.alias_(exp.Column(this=row.copy()), "_row", quoted=True)])
    outer.set("from_", exp.From(this=exp.Subquery(this=inner, alias=exp.TableAlias(this=row.copy()))))
    select.replace(outer)


def _unnest(unnest: exp.Unnest) -> None:
    """UNNEST in FROM: one without an alias shows the fields of its structs; WITH OFFSET counts from 0."""
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
        columns: Names to DuckDB types.
        rows: Texts, numbers, booleans or None.
    """

    def shown(value: Any) -> str:
        return "NULL" if value is None else str(value) if isinstance(value, bool | int) else text(value).sql("duckdb")

    casts = ", ".join(f"CAST({quote(name)} AS {kind}) AS {quote(name)}" for name, kind in columns.items())
    names = ", ".join(quote(name) for name in columns)
    body = ", ".join("(" + ", ".join(shown(value) for value in row) + ")" for row in rows)
    if not rows:
        body = "(" + ", ".join("NULL" for _ in columns) + ")"
    where = "" if rows else " WHERE FALSE"
    return f"SELECT {casts} FROM (VALUES {body}) AS v({names}){where}"
