"""Parser of DDL that sqlglot does not parse: connections, object tables, remote models, vector indexes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Final

from sqlglot.dialects import BigQuery
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from imagebeam.emulators.bigquery.dialect.nodes import invalid, not_implemented

#: Kinds of resources by their keywords.
_KINDS: Final = {
    ("EXTERNAL", "TABLE"): "EXTERNAL_TABLE",
    ("MODEL",): "MODEL",
    ("CONNECTION",): "CONNECTION",
    ("VECTOR", "INDEX"): "VECTOR_INDEX",
}
#: What follows CALL, which sqlglot tokenizes as one text.
_CALL: Final = re.compile(r"([\w`.]+)\s*\(\s*(?:'([^']*)'|\"([^\"]*)\")\s*\)\s*;?\s*")
_REFRESH: Final = "BQ.REFRESH_EXTERNAL_METADATA_CACHE"
#: The implemented functions of these namespaces; others are rejected by name.
_IMPLEMENTED: Final = {
    "AI": ("GENERATE_EMBEDDING",),
    "ML": ("GENERATE_EMBEDDING",),
    "OBJ": ("MAKE_REF", "FETCH_METADATA"),
}
_QUOTED: Final = (TokenType.STRING, TokenType.IDENTIFIER)


@dataclasses.dataclass(frozen=True, slots=True)
class ResourceDdl:
    """A DDL statement about such a resource.

    Attributes:
        kind: ``CREATE_MODEL``, ``DROP_VECTOR_INDEX``, ``CALL`` ...
        name: Name of the resource, split at the dots.
        exists: Whether it has IF [NOT] EXISTS.
        replace: Whether it has OR REPLACE.
        connection: Name after WITH CONNECTION, split at the dots; None for DEFAULT and without the clause.
        options: OPTIONS by lower-case name: strings, numbers, booleans, lists, and intervals in milliseconds.
        table: Table of an index, split at the dots.
        columns: Column of an index, followed by its stored columns.
    """

    kind: str
    name: list[str]
    exists: bool = False
    replace: bool = False
    connection: list[str] | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    table: list[str] | None = None
    columns: tuple[str, ...] = ()


def parse_resource_ddl(sql: str) -> ResourceDdl | None:
    """Parse a statement.

    Args:
        sql: Any statement.

    Returns:
        The parsed statement, or None for a statement that is not about such a resource.

    Raises:
        ApiError: 400 for a syntax error, 501 for what is not implemented, also for AI functions in any statement.
    """
    try:
        tokens = list(BigQuery().tokenize(sql))
    except SqlglotError:
        return None  # the SQL parser reports the error
    _check_namespaced_functions(tokens)
    while tokens and tokens[-1].token_type == TokenType.SEMICOLON:
        tokens.pop()
    reader = _TokenReader(tokens)
    if reader.accept("CALL"):
        return _call(tokens[1].text if len(tokens) > 1 else "")
    for verb in ("CREATE", "DROP"):
        if reader.accept(verb):
            replace = verb == "CREATE" and reader.accept("OR", "REPLACE")
            kind = next((kind for words, kind in _KINDS.items() if reader.accept(*words)), None)
            if kind is None:
                return None
            return _drop(reader, kind) if verb == "DROP" else _create(reader, kind, replace=replace)
    return None


def _check_namespaced_functions(tokens: list[Token]) -> None:
    for index in range(len(tokens) - 3):
        namespace, dot, name, bracket = tokens[index : index + 4]
        known = _IMPLEMENTED.get(namespace.text.upper())
        if known is None or dot.token_type != TokenType.DOT or bracket.token_type != TokenType.L_PAREN:
            continue
        if index and tokens[index - 1].token_type == TokenType.DOT:
            continue
        if namespace.token_type not in _QUOTED and name.text.upper() not in known:
            raise not_implemented(f"the function {namespace.text.upper()}.{name.text.upper()}")


def _call(call: str) -> ResourceDdl:
    found = _CALL.fullmatch(call.strip())
    procedure = call.split("(")[0].strip().replace("`", "").upper()
    if found is None or procedure != _REFRESH:
        raise not_implemented(f"the procedure {procedure}")
    return ResourceDdl("CALL", (found[2] or found[3] or "").replace("`", "").split("."))


def _drop(reader: _TokenReader, kind: str) -> ResourceDdl:
    exists = reader.accept("IF", "EXISTS")
    name = reader.name()
    table = None
    if kind == "VECTOR_INDEX":
        reader.expect_word("ON")
        table = reader.name()
    reader.end()
    return ResourceDdl(f"DROP_{kind}", name, exists=exists, table=table)


def _create(reader: _TokenReader, kind: str, *, replace: bool) -> ResourceDdl:
    exists = reader.accept("IF", "NOT", "EXISTS")
    name = reader.name()
    connection, table, columns = None, None, []
    if kind == "VECTOR_INDEX":
        reader.expect_word("ON")
        table = reader.name()
        columns = reader.column_list()
        if len(columns) != 1:
            raise invalid("CREATE VECTOR INDEX needs exactly one column")
        if reader.accept("STORING"):
            columns += reader.column_list()
        if reader.peek("PARTITION"):
            raise not_implemented("PARTITION BY of CREATE VECTOR INDEX")
    elif kind in ("EXTERNAL_TABLE", "MODEL"):
        if kind == "MODEL" and not reader.accept("REMOTE"):
            raise not_implemented("CREATE MODEL other than REMOTE")
        if not reader.accept("WITH", "CONNECTION"):
            raise not_implemented(f"CREATE {kind.replace('_', ' ')} without WITH CONNECTION")
        connection = None if reader.accept("DEFAULT") else reader.name()
    options = reader.options() if reader.accept("OPTIONS") else {}
    reader.end()
    return ResourceDdl(f"CREATE_{kind}", name, exists, replace, connection, options, table, tuple(columns))


class _TokenReader:
    """Reads tokens from left to right."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._position = 0

    def peek(self, word: str, ahead: int = 0) -> bool:
        """Return whether the token ``ahead`` of the next one is this keyword."""
        index = self._position + ahead
        if index >= len(self._tokens):
            return False
        token = self._tokens[index]
        return token.token_type not in _QUOTED and token.text.upper() == word

    def accept(self, *words: str) -> bool:
        """Read these keywords if all of them are next; return whether they were."""
        # sqlglot has tokens of two words; OR REPLACE is not one of them.
        if not all(self.peek(word, ahead) for ahead, word in enumerate(words)):
            return False
        self._position += len(words)
        return True

    def expect_word(self, word: str) -> None:
        """Read a keyword.

        Raises:
            ApiError: 400 if the next token is another one.
        """
        if not self.accept(word):
            raise self._syntax_error(f"Expected keyword {word}")

    def expect(self, kind: TokenType, symbol: str) -> None:
        """Read a token of a type.

        Raises:
            ApiError: 400 if the next token is another one.
        """
        if not self._accept_type(kind):
            raise self._syntax_error(f'Expected "{symbol}"')

    def end(self) -> None:
        """Check that all tokens have been read.

        Raises:
            ApiError: 400 otherwise.
        """
        if self._position < len(self._tokens):
            raise self._syntax_error("Expected end of input")

    def name(self) -> list[str]:
        """Read a name such as ``a.b.c``, with or without backticks; parts may have dashes."""
        parts: list[str] = []
        while True:
            token = self._take()
            if token.token_type in (TokenType.STRING, TokenType.NUMBER) or not token.text:
                raise self._syntax_error("Expected a name", back=1)
            text = token.text
            while token.token_type != TokenType.IDENTIFIER and self._accept_type(TokenType.DASH):
                text += "-" + self._take().text
            parts += text.split(".") if token.token_type == TokenType.IDENTIFIER else [text]
            if not self._accept_type(TokenType.DOT):
                return parts

    def column_list(self) -> list[str]:
        """Read ``(a, b)``."""
        self.expect(TokenType.L_PAREN, "(")
        columns = [".".join(self.name())]
        while self._accept_type(TokenType.COMMA):
            columns.append(".".join(self.name()))
        self.expect(TokenType.R_PAREN, ")")
        return columns

    def options(self) -> dict[str, Any]:
        """Read ``(name = value, ...)``."""
        self.expect(TokenType.L_PAREN, "(")
        found: dict[str, Any] = {}
        while not self._accept_type(TokenType.R_PAREN):
            name = self._take().text.lower()
            self.expect(TokenType.EQ, "=")
            if name in found:
                raise invalid(f"Duplicate option specified for '{name}'")
            found[name] = self.value()
            if not self._accept_type(TokenType.COMMA) and not self._at_closing_bracket():
                raise self._syntax_error('Expected ")" or ","')
        return found

    def value(self) -> Any:
        """Read a literal; an interval becomes milliseconds."""
        if self._accept_type(TokenType.L_BRACKET):
            items: list[Any] = []
            while not self._accept_type(TokenType.R_BRACKET):
                items.append(self.value())
                self._accept_type(TokenType.COMMA)
            return items
        token = self._take()
        if token.token_type == TokenType.STRING:
            return token.text
        if token.token_type == TokenType.NUMBER:
            return float(token.text) if "." in token.text else int(token.text)
        word = token.text.upper()
        if word in ("TRUE", "FALSE"):
            return word == "TRUE"
        if word == "NULL":
            return None
        if word == "INTERVAL":
            return self._interval()
        raise self._syntax_error("Expected a literal", back=1)

    def _interval(self) -> int:
        count = self.value()
        unit = self._take().text.upper()
        seconds = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86_400}.get(unit.removesuffix("S"))
        if seconds is None or not str(count).isdigit():
            raise not_implemented(f"the interval {count} {unit}: write INTERVAL 4 HOUR")
        return int(count) * seconds * 1000

    def _at_closing_bracket(self) -> bool:
        return self._position < len(self._tokens) and self._tokens[self._position].token_type == TokenType.R_PAREN

    def _accept_type(self, kind: TokenType) -> bool:
        if self._position < len(self._tokens) and self._tokens[self._position].token_type == kind:
            self._position += 1
            return True
        return False

    def _take(self) -> Token:
        if self._position >= len(self._tokens):
            raise self._syntax_error("Unexpected end of statement")
        self._position += 1
        return self._tokens[self._position - 1]

    def _syntax_error(self, message: str, *, back: int = 0) -> Exception:
        index = min(self._position - back, len(self._tokens) - 1)
        token = self._tokens[index]
        got = "end of statement" if self._position - back >= len(self._tokens) else f'"{token.text}"'
        return invalid(f"Syntax error: {message} but got {got} at [{token.line}:{token.start + 1}]")
