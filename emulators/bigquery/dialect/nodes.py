"""Small parts that the rewriting of BigQuery's SQL is made of: calls, checks of arguments, refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlglot import exp

from imagebeam.emulators.core.http import ApiError

Node = exp.Expression


#: Before the name of a function that the rewriting put in, until it is done.
MARK: Final = "\0"


Handler = Callable[[Any], Node | None]


def not_implemented(what: str) -> ApiError:
    """Return the error of something that BigQuery has and this has not."""
    return ApiError(501, f"The local BigQuery does not implement {what}.", reason="notImplemented")


def invalid(message: str) -> ApiError:
    """Return the error of a query that BigQuery would refuse."""
    return ApiError(400, message, reason="invalidQuery")


def call(name: str, *arguments: Any) -> exp.Anonymous:
    """Return a call of a DuckDB function, marked: a query cannot spell it."""
    return exp.Anonymous(this=MARK + name, expressions=[argument for argument in arguments if argument is not None])


def text(value: str) -> exp.Literal:
    """Return a string literal."""
    return exp.Literal.string(value)


def name_of(node: exp.Expr) -> str:
    """Return what a person calls a node: the function, or the clause with its text."""
    if isinstance(node, exp.SafeFunc | exp.NetFunc):
        return f"{type(node).__name__[:-4].upper()} functions"
    if isinstance(node, exp.Func):
        return f"the function {node.sql_name()}"
    if isinstance(node.parent, exp.Func):
        return name_of(node.parent)
    return f"{type(node).__name__} ({node.sql('bigquery')[:60]})"


def only_arguments(node: Node, *allowed: str) -> None:
    """Refuse an argument that a rewrite would lose."""
    for key, value in node.args.items():
        if value and key not in allowed:
            raise not_implemented(f"{key} of {name_of(node)}")


def simple(name: str, *keys: str, ignore: Sequence[str] = ()) -> Handler:
    """A handler that makes a call of the arguments ``keys``, in order."""

    def handle(node: Node) -> Node:
        only_arguments(node, *keys, *ignore)
        parts: list[Any] = []
        for key in keys:
            value = node.args.get(key)
            parts += value if isinstance(value, list) else [value]
        return call(name, *parts)

    return handle


def checked(*allowed: str) -> Handler:
    """A node that stays as it is, unless it has an argument that DuckDB would not see."""

    def handle(node: Node) -> None:
        only_arguments(node, *allowed)

    return handle


def calls(node: Any, name: str) -> bool:
    """Say whether a node is a call that :func:`call` made of a function."""
    return isinstance(node, exp.Anonymous) and node.this == MARK + name


def attempt(node: Node) -> Node:
    """Return an expression that is NULL where ``node`` fails."""
    return call("TRY", node)
