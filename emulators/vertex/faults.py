"""Simulated failures of the local Vertex AI: section ``vertex`` of the fault configuration.

::

    {"latency": {"median_s": 1.0, "sigma": 0.35},
     "quota": {"requests_per_minute": 600, "burst": 10, "tokens_per_minute": 2000000},
     "rules": [{"match": "night", "times": 1, "do": "http", "code": 503}, {"rate": 0.02, "do": "bad_json"}],
     "retired_models": ["gemini-2.5-flash"],
     "api_disabled": false}

A rule applies to ``generateContent`` unless it names another ``method``: ``countTokens``, ``predict`` or
``embedContent``. The first rule that matches a call is applied. ``match`` is a substring of a file URI or of the
prompt; ``rate`` is the share of calls; a rule without both applies to all calls. ``times`` limits the applications
per URI (of the first file that matches). Random decisions depend on the seed, the URI and the number of earlier
calls about it, never on the order in which calls arrive.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Final

from imagebeam.emulators.core.access import VERTEX_AGENT, Access, api_disabled
from imagebeam.emulators.core.faults import FaultConfig, check_keys
from imagebeam.emulators.core.http import STATUS_NAMES, ApiError
from imagebeam.emulators.vertex.quota import Quota, QuotaLimiter

SECTION: Final = "vertex"
SERVICE: Final = "aiplatform.googleapis.com"

#: Actions of a rule, with their settings. `vertex.answers` applies those that change the answer.
ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "http": ("code", "message", "status", "retry_after"),
    "reset": (),
    "slow": ("seconds",),
    "garbage": (),
    "blocked": ("reason",),
    "finish": ("reason",),
    "bad_json": (),
    "fenced": (),
    "empty": (),
    "continuation": (),
    "off_schema": (),
}
#: Methods that a rule can apply to, with the actions that they support.
METHODS: Final[Mapping[str, tuple[str, ...]]] = {
    "generateContent": tuple(ACTIONS),
    "countTokens": ("http", "reset", "slow", "garbage"),
    "predict": ("http", "reset", "slow", "garbage"),
    "embedContent": ("http", "reset", "slow", "garbage"),
}
#: Default messages of the service, by HTTP code.
MESSAGES: Final[Mapping[int, str]] = {
    400: "Request contains an invalid argument.",
    403: "Permission denied while accessing input file. Learn more about providing the appropriate credentials: "
    "https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/send-multimodal-prompts",
    404: "Requested entity was not found.",
    408: "The request timed out.",
    429: "Resource exhausted. Please try again later. Please refer to "
    "https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details.",
    499: "The operation was cancelled.",
    500: "Internal error encountered.",
    503: "The model is overloaded. Please try again later.",
    504: "Deadline expired before operation could complete.",
}

_COMMON: Final = ("match", "rate", "times", "do", "method")
_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the configuration.

    Attributes:
        number: Index in the list.
        match: Substring to look for; empty matches everything.
        rate: Share of calls, 0 to 1.
        times: Maximum number of applications per URI; None for no limit.
        action: A key of `ACTIONS`.
        method: A key of `METHODS`.
        settings: Settings of the action.
    """

    number: int
    match: str
    rate: float
    times: int | None
    action: str
    method: str
    settings: Mapping[str, Any]

    def error(self) -> ApiError:
        """Return the error that an ``http`` rule defines."""
        code = self.settings["code"]
        message = self.settings.get("message") or MESSAGES.get(code, f"HTTP {code}")
        return build_error(code, message, self.settings.get("status"), self.settings.get("retry_after"))


def build_error(code: int, message: str, status: str | None = None, retry_after: float | None = None) -> ApiError:
    """Return an API error; ``retry_after`` is in seconds, and None for no ``Retry-After`` header."""
    headers = None if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return ApiError(code, message, status=status or STATUS_NAMES.get(code), headers=headers)


@dataclass(slots=True)
class VertexFaults:
    """The faults of section ``vertex``. Not thread-safe.

    Args:
        config: The fault configuration. Registers a check of its section ``vertex``.
        seed: Seed of random decisions.
    """

    config: FaultConfig
    seed: int
    access: Access = field(init=False)
    limiter: QuotaLimiter = field(init=False)
    retired: tuple[str, ...] = field(init=False, default=())
    api_disabled: bool = field(init=False, default=False)
    _rules: tuple[Rule, ...] = field(init=False, default=())
    _latency: tuple[float, float] | None = field(init=False, default=None)
    _section: dict[str, Any] = field(init=False, default_factory=dict)
    _version: int = field(init=False, default=-1)
    _updated: bool = field(init=False, default=True)
    _used: dict[tuple[int, str], int] = field(init=False, default_factory=dict)
    _attempts: dict[str, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.limiter = QuotaLimiter(None)
        self.access = Access(self.config)
        self.config.register(SECTION, self._on_update)

    def refresh(self) -> None:
        """Apply changes of the configuration since the last call."""
        if self.config.version == self._version:
            return
        self._version = self.config.version
        section = self.config.section(SECTION)
        if not self._updated and section == self._section:
            return  # another section changed
        self._updated, self._section = False, section
        self._rules = _rules(section)
        latency = section.get("latency")
        self._latency = (latency["median_s"], latency.get("sigma", 0.0)) if latency else None
        self.limiter = QuotaLimiter(_quota(section))
        self.retired = tuple(section.get("retired_models", ()))
        self.api_disabled = section.get("api_disabled", False)
        self._used.clear()
        self._attempts.clear()

    @property
    def has_rules(self) -> bool:
        """Whether there are any rules, as of the last `refresh`."""
        return bool(self._rules)

    def count_attempt(self, key: str) -> int:
        """Count a call about a key (a URI) and return the number of earlier calls."""
        if not self._rules and self._latency is None:
            return 0
        earlier = self._attempts.get(key, 0)
        self._attempts[key] = earlier + 1
        return earlier

    def rule(self, method: str, uris: tuple[str, ...], text: str, key: str, attempt: int) -> Rule | None:
        """Return the rule that applies to a call and count its use.

        Args:
            method: A key of `METHODS`.
            uris: URIs of the request's files.
            text: Text of the prompt.
            key: First URI, or a digest of the prompt.
            attempt: Number of earlier calls about the key.
        """
        for rule in self._rules:
            if rule.method != method:
                continue
            usage_key = _usage_key(rule, uris, text, key)
            if usage_key is None or (rule.rate < 1 and self._chance(f"rule {rule.number}", key, attempt) >= rule.rate):
                continue
            used = self._used.get((rule.number, usage_key), 0)
            if rule.times is not None:
                if used >= rule.times:
                    continue
                self._used[rule.number, usage_key] = used + 1
            return rule
        return None

    def latency(self, key: str, attempt: int) -> float:
        """Return the simulated latency in seconds (log-normal distribution); 0 if none is configured."""
        if self._latency is None:
            return 0.0
        median, sigma = self._latency
        chance = self._chance("latency", key, attempt)
        return median * math.exp(sigma * _NORMAL.inv_cdf(min(max(chance, 1e-9), 1 - 1e-9)))

    def authorize(self, project: str, permission: str | None, resource: str, account: str) -> None:
        """Check that a call is allowed, as of the last `refresh`.

        Args:
            project: Project of the call.
            permission: Required permission; None for no check.
            resource: Resource that the permission is for.
            account: The caller.

        Raises:
            ApiError: 403 if the API is disabled or the permission is missing.
        """
        if self.api_disabled:
            raise api_disabled(SERVICE, project)
        self.access.require_api(SERVICE, project)
        if permission is not None:
            self.access.require(permission, resource, account)

    def check_read_access(self, uris: tuple[str, ...]) -> None:
        """Check that the Vertex AI service agent may read the files of a request.

        Raises:
            ApiError: 403. As in the real service, the message does not name the file.
        """
        if not all(self.access.allows("storage.objects.get", uri, VERTEX_AGENT) for uri in uris):
            raise ApiError(403, MESSAGES[403])

    def _chance(self, what: str, key: str, attempt: int) -> float:
        """Return a pseudo-random number from 0 to 1 that depends on the seed and the arguments only."""
        text = f"{self.seed}\0{what}\0{key}\0{attempt}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64

    def _on_update(self, section: dict[str, Any]) -> None:
        """Check a new version of the section. Its counts restart at zero even if nothing changed."""
        _check(section)
        self._updated = True


def _usage_key(rule: Rule, uris: tuple[str, ...], text: str, key: str) -> str | None:
    """Return the key that counts the uses of a rule, or None if the rule does not match."""
    if not rule.match:
        return key
    return next((uri for uri in uris if rule.match in uri), key if rule.match in text else None)


# Parsing of the section


def _check(section: dict[str, Any]) -> None:
    check_keys(section, ("latency", "quota", "rules", "retired_models", "api_disabled"), f"section {SECTION}")
    latency = section.get("latency") or {}
    check_keys(latency, ("median_s", "sigma"), "latency")
    if latency:
        _number(latency, "median_s", "latency", required=True)
        _number(latency, "sigma", "latency")
    _quota(section)
    _rules(section)
    retired = section.get("retired_models", [])
    if not isinstance(retired, list) or not all(isinstance(name, str) for name in retired):
        raise ValueError("retired_models must be a list of model IDs")
    if not isinstance(section.get("api_disabled", False), bool):
        raise TypeError("api_disabled must be true or false")


def _quota(section: dict[str, Any]) -> Quota | None:
    given = section.get("quota")
    if not given:
        return None
    known = ("requests_per_minute", "burst", "tokens_per_minute", "burst_tokens", "message", "retry_after")
    check_keys(given, known, "quota")
    for name in known:
        if name != "message":
            _number(given, name, "quota")
    return Quota(**given)


def _rules(section: dict[str, Any]) -> tuple[Rule, ...]:
    rules = section.get("rules", [])
    if not isinstance(rules, list):
        raise TypeError("rules must be a list")
    return tuple(_rule(number, rule) for number, rule in enumerate(rules))


def _rule(number: int, given: Any) -> Rule:
    where = f"rules[{number}]"
    if not isinstance(given, dict):
        raise TypeError(f"{where} must be an object")
    action, method = given.get("do"), given.get("method", "generateContent")
    if action not in ACTIONS:
        raise ValueError(f"{where}: unknown action {action!r}: use {', '.join(ACTIONS)}")
    if method not in METHODS or action not in METHODS[method]:
        raise ValueError(
            f"{where}: {method!r} does not support action {action}: generateContent supports all, predict, "
            f"embedContent and countTokens only {', '.join(METHODS['countTokens'])}"
        )
    check_keys(given, (*_COMMON, *ACTIONS[action]), where)
    for name in ("rate", "times", "retry_after"):
        _number(given, name, where)
    if given.get("rate") is not None and given["rate"] > 1:
        raise ValueError(f"{where}: rate must be from 0 to 1")
    if action == "http" and not (type(given.get("code")) is int and 400 <= given["code"] <= 599):
        raise ValueError(f"{where}: code must be 400 to 599")
    if action == "slow":
        _number(given, "seconds", where, required=True)
    if action == "finish" and not isinstance(given.get("reason"), str):
        raise ValueError(f"{where}: reason must be a finishReason such as SAFETY or MAX_TOKENS")
    return Rule(
        number=number,
        match=str(given.get("match") or ""),
        rate=1.0 if given.get("rate") is None else given["rate"],
        times=given.get("times"),
        action=action,
        method=method,
        settings={name: given[name] for name in ACTIONS[action] if given.get(name) is not None},
    )


def _number(given: dict[str, Any], name: str, where: str, *, required: bool = False) -> None:
    value = given.get(name)
    if value is None and not required:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{where}: {name} must be a number ≥ 0, not {value!r}")
