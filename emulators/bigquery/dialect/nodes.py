"""Helpers for the rewriting of SQL trees: function calls, checks of arguments, errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlglot import exp

from imagebeam.emulators.core.http import ApiError

Node = exp.Expression


#: Prefix of functions that a rewrite inserted, until all rewrites are done: a query cannot contain it.
MARK: Final = "\0"


Handler = Callable[[Any], Node | None]


def not_implemented(what: str) -> ApiError:
    """Return the 501 for a feature of BigQuery that is not implemented."""
    return ApiError(501, f"The local BigQuery does not implement {what}.", reason="notImplemented")


def invalid(message: str) -> ApiError:
    """Return the 400 for an invalid query."""
    return ApiError(400, message, reason="invalidQuery")


def call(name: str, *arguments: Any) -> exp.Anonymous:
    """Return a call of a DuckDB function; arguments that are None are omitted."""
    return exp.Anonymous(this=MARK + name, expressions=[argument for argument in arguments if argument is not None])


def string(value: str) -> exp.Literal:
    """Return a string literal."""
    return exp.Literal.string(value)


def describe_node(node: exp.Expr) -> str:
    """Return the name of a node for messages: the function, or the clause with its SQL."""
    if isinstance(node, exp.SafeFunc | exp.NetFunc):
        return f"{type(node).__name__[:-4].upper()} functions"
    if isinstance(node, exp.Func):
        return f"the function {node.sql_name()}"
    if isinstance(node.parent, exp.Func):
        return describe_node(node.parent)
    return f"{type(node).__name__} ({node.sql('bigquery')[:60]})"


def check_arguments(node: Node, *allowed: str) -> None:
    """Reject arguments that a rewrite would lose.

    Raises:
        ApiError: 501.
    """
    for key, value in node.args.items():
        if value and key not in allowed:
            raise not_implemented(f"{key} of {describe_node(node)}")


def to_call(name: str, *keys: str, ignore: Sequence[str] = ()) -> Handler:
    """Return a handler that replaces a node by a call.

    Args:
        name: The DuckDB function.
        keys: The arguments to pass, in order.
        ignore: Arguments without effect.
    """

    def handle(node: Node) -> Node:
        check_arguments(node, *keys, *ignore)
        parts: list[Any] = []
        for key in keys:
            value = node.args.get(key)
            parts += value if isinstance(value, list) else [value]
        return call(name, *parts)

    return handle


def unchanged(*allowed: str) -> Handler:
    """Return a handler that keeps a node, and rejects arguments that are not allowed."""

    def handle(node: Node) -> None:
        check_arguments(node, *allowed)

    return handle


def is_call(node: Any, name: str) -> bool:
    """Return whether a node is a call of a function that `call` made."""
    return isinstance(node, exp.Anonymous) and node.this == MARK + name


def null_on_error(node: Node) -> Node:
    """Return an expression that is NULL if ``node`` fails."""
    return call("TRY", node)
