"""DDL that sqlglot does not take apart: connections, object tables, remote models, vector indexes.

Read from the tokens of the statement. ``read_definition`` returns None for every other statement.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Final

from sqlglot.dialects import BigQuery
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from imagebeam.emulators.bigquery.dialect.nodes import invalid, not_implemented

#: What is made or dropped, by the words that name it.
_KINDS: Final = {
    ("EXTERNAL", "TABLE"): "EXTERNAL_TABLE",
    ("MODEL",): "MODEL",
    ("CONNECTION",): "CONNECTION",
    ("VECTOR", "INDEX"): "VECTOR_INDEX",
}
#: sqlglot takes what follows CALL for one text.
_CALL: Final = re.compile(r"([\w`.]+)\s*\(\s*(?:'([^']*)'|\"([^\"]*)\")\s*\)\s*;?\s*")
_REFRESH: Final = "BQ.REFRESH_EXTERNAL_METADATA_CACHE"
#: Functions of these namespaces that are implemented; the others are refused by name.
_IMPLEMENTED: Final = {
    "AI": ("GENERATE_EMBEDDING",),
    "ML": ("GENERATE_EMBEDDING",),
    "OBJ": ("MAKE_REF", "FETCH_METADATA"),
}
_QUOTED: Final = (TokenType.STRING, TokenType.IDENTIFIER)


@dataclasses.dataclass(frozen=True, slots=True)
class Definition:
    """A statement of this kind.

    Attributes:
        kind: ``CREATE_MODEL``, ``DROP_VECTOR_INDEX``, ``CALL`` ...
        name: What it is about, split at the dots.
        exists: IF [NOT] EXISTS.
        replace: OR REPLACE.
        connection: WITH CONNECTION, split at the dots; None for DEFAULT and for statements without one.
        options: OPTIONS by lower-case name: texts, numbers, booleans, lists, and intervals in milliseconds.
        table: Table of an index, split at the dots.
        columns: Column of an index, then those that it stores.
    """

    kind: str
    name: list[str]
    exists: bool = False
    replace: bool = False
    connection: list[str] | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    table: list[str] | None = None
    columns: tuple[str, ...] = ()


def read_definition(sql: str) -> Definition | None:
    """Take a statement apart, if it is of this kind.

    Raises:
        ApiError: 400 for a syntax error, 501 for what is not implemented, and for AI functions anywhere.
    """
    try:
        tokens = list(BigQuery().tokenize(sql))
    except SqlglotError:
        return None  # the parser says what is wrong
    _refuse_functions(tokens)
    while tokens and tokens[-1].token_type == TokenType.SEMICOLON:
        tokens.pop()
    reader = _Reader(tokens)
    if reader.words("CALL"):
        return _call(tokens[1].text if len(tokens) > 1 else "")
    for verb in ("CREATE", "DROP"):
        if reader.words(verb):
            replace = verb == "CREATE" and reader.words("OR", "REPLACE")
            kind = next((kind for words, kind in _KINDS.items() if reader.words(*words)), None)
            if kind is None:
                return None
            return _drop(reader, kind) if verb == "DROP" else _create(reader, kind, replace=replace)
    return None


def _refuse_functions(tokens: list[Token]) -> None:
    for index in range(len(tokens) - 3):
        space, dot, name, bracket = tokens[index : index + 4]
        known = _IMPLEMENTED.get(space.text.upper())
        if known is None or dot.token_type != TokenType.DOT or bracket.token_type != TokenType.L_PAREN:
            continue
        if index and tokens[index - 1].token_type == TokenType.DOT:
            continue
        if space.token_type not in _QUOTED and name.text.upper() not in known:
            raise not_implemented(f"the function {space.text.upper()}.{name.text.upper()}")


def _call(said: str) -> Definition:
    found = _CALL.fullmatch(said.strip())
    procedure = said.split("(")[0].strip().replace("`", "").upper()
    if found is None or procedure != _REFRESH:
        raise not_implemented(f"the procedure {procedure}")
    return Definition("CALL", (found[2] or found[3] or "").replace("`", "").split("."))


def _drop(reader: _Reader, kind: str) -> Definition:
    exists = reader.words("IF", "EXISTS")
    name = reader.name()
    table = None
    if kind == "VECTOR_INDEX":
        reader.need("ON")
        table = reader.name()
    reader.end()
    return Definition(f"DROP_{kind}", name, exists=exists, table=table)


def _create(reader: _Reader, kind: str, *, replace: bool) -> Definition:
    exists = reader.words("IF", "NOT", "EXISTS")
    name = reader.name()
    connection, table, columns = None, None, []
    if kind == "VECTOR_INDEX":
        reader.need("ON")
        table = reader.name()
        columns = reader.column_list()
        if len(columns) != 1:
            raise invalid("CREATE VECTOR INDEX needs exactly one column")
        if reader.words("STORING"):
            columns += reader.column_list()
        if reader.peek("PARTITION"):
            raise not_implemented("PARTITION BY of CREATE VECTOR INDEX")
    elif kind in ("EXTERNAL_TABLE", "MODEL"):
        if kind == "MODEL" and not reader.words("REMOTE"):
            raise not_implemented("CREATE MODEL other than REMOTE")
        if not reader.words("WITH", "CONNECTION"):
            raise not_implemented(f"CREATE {kind.replace('_', ' ')} without WITH CONNECTION")
        connection = None if reader.words("DEFAULT") else reader.name()
    options = reader.options() if reader.words("OPTIONS") else {}
    reader.end()
    return Definition(f"CREATE_{kind}", name, exists, replace, connection, options, table, tuple(columns))


class _Reader:
    """Reads tokens from left to right."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def peek(self, word: str, ahead: int = 0) -> bool:
        """Say whether a keyword is next."""
        index = self._at + ahead
        if index >= len(self._tokens):
            return False
        token = self._tokens[index]
        return token.token_type not in _QUOTED and token.text.upper() == word

    def words(self, *words: str) -> bool:
        """Read keywords, all or none."""
        # sqlglot has tokens of two words ("OR REPLACE" is none of them today).
        if not all(self.peek(word, ahead) for ahead, word in enumerate(words)):
            return False
        self._at += len(words)
        return True

    def need(self, word: str) -> None:
        if not self.words(word):
            raise self._wrong(f"Expected keyword {word}")

    def expect(self, kind: TokenType, shown: str) -> None:
        if not self._next(kind):
            raise self._wrong(f'Expected "{shown}"')

    def end(self) -> None:
        if self._at < len(self._tokens):
            raise self._wrong("Expected end of input")

    def name(self) -> list[str]:
        """Read a name: ``a.b.c`` with or without backticks, dashes in the first part."""
        parts: list[str] = []
        while True:
            token = self._take()
            if token.token_type in (TokenType.STRING, TokenType.NUMBER) or not token.text:
                raise self._wrong("Expected a name", back=1)
            text = token.text
            while token.token_type != TokenType.IDENTIFIER and self._next(TokenType.DASH):
                text += "-" + self._take().text
            parts += text.split(".") if token.token_type == TokenType.IDENTIFIER else [text]
            if not self._next(TokenType.DOT):
                return parts

    def column_list(self) -> list[str]:
        """Read ``(a, b)``."""
        self.expect(TokenType.L_PAREN, "(")
        columns = [".".join(self.name())]
        while self._next(TokenType.COMMA):
            columns.append(".".join(self.name()))
        self.expect(TokenType.R_PAREN, ")")
        return columns

    def options(self) -> dict[str, Any]:
        """Read ``(name = value, ...)``."""
        self.expect(TokenType.L_PAREN, "(")
        found: dict[str, Any] = {}
        while not self._next(TokenType.R_PAREN):
            name = self._take().text.lower()
            self.expect(TokenType.EQ, "=")
            if name in found:
                raise invalid(f"Duplicate option specified for '{name}'")
            found[name] = self.value()
            if not self._next(TokenType.COMMA) and not self._closing():
                raise self._wrong('Expected ")" or ","')
        return found

    def value(self) -> Any:
        """Read a literal; an interval becomes milliseconds."""
        if self._next(TokenType.L_BRACKET):
            items: list[Any] = []
            while not self._next(TokenType.R_BRACKET):
                items.append(self.value())
                self._next(TokenType.COMMA)
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
        raise self._wrong("Expected a literal", back=1)

    def _interval(self) -> int:
        count = self.value()
        unit = self._take().text.upper()
        seconds = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86_400}.get(unit.removesuffix("S"))
        if seconds is None or not str(count).isdigit():
            raise not_implemented(f"the interval {count} {unit}: write INTERVAL 4 HOUR")
        return int(count) * seconds * 1000

    def _closing(self) -> bool:
        return self._at < len(self._tokens) and self._tokens[self._at].token_type == TokenType.R_PAREN

    def _next(self, kind: TokenType) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at].token_type == kind:
            self._at += 1
            return True
        return False

    def _take(self) -> Token:
        if self._at >= len(self._tokens):
            raise self._wrong("Unexpected end of statement")
        self._at += 1
        return self._tokens[self._at - 1]

    def _wrong(self, message: str, *, back: int = 0) -> Exception:
        index = min(self._at - back, len(self._tokens) - 1)
        token = self._tokens[index]
        got = "end of statement" if self._at - back >= len(self._tokens) else f'"{token.text}"'
        return invalid(f"Syntax error: {message} but got {got} at [{token.line}:{token.start + 1}]")
