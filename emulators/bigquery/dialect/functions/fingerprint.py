"""FARM_FINGERPRINT: FarmHash Fingerprint64, whose values BigQuery guarantees never to change."""

from __future__ import annotations

from typing import Final

_MASK: Final = (1 << 64) - 1
_K0: Final = 0xC3A5C85C97CB3127
_K1: Final = 0xB492B66FBE98F273
_K2: Final = 0x9AE16A3B2F90404F


def fingerprint64(data: bytes) -> int:
    """Return the hash as the signed 64-bit integer of BigQuery."""
    value = _hash(data)
    return value - (1 << 64) if value >> 63 else value


def _hash(s: bytes) -> int:
    size = len(s)
    if size <= 16:
        return _up_to_16(s, size)
    if size <= 32:
        return _up_to_32(s, size)
    if size <= 64:
        return _up_to_64(s, size)
    return _long(s, size)


def _u64(s: bytes, at: int) -> int:
    return int.from_bytes(s[at : at + 8], "little")


def _u32(s: bytes, at: int) -> int:
    return int.from_bytes(s[at : at + 4], "little")


def _rotate(value: int, shift: int) -> int:
    value &= _MASK
    return ((value >> shift) | (value << (64 - shift))) & _MASK


def _shift_mix(value: int) -> int:
    value &= _MASK
    return value ^ (value >> 47)


def _mix(u: int, v: int, multiplier: int) -> int:
    a = _shift_mix((u ^ v) * multiplier)
    b = _shift_mix((v ^ a) * multiplier)
    return (b * multiplier) & _MASK


def _up_to_16(s: bytes, size: int) -> int:
    if size >= 8:
        multiplier = _K2 + size * 2
        a = (_u64(s, 0) + _K2) & _MASK
        b = _u64(s, size - 8)
        c = (_rotate(b, 37) * multiplier + a) & _MASK
        d = ((_rotate(a, 25) + b) * multiplier) & _MASK
        return _mix(c, d, multiplier)
    if size >= 4:
        multiplier = _K2 + size * 2
        return _mix((size + (_u32(s, 0) << 3)) & _MASK, _u32(s, size - 4), multiplier)
    if size > 0:
        y = s[0] + (s[size >> 1] << 8)
        z = size + (s[size - 1] << 2)
        return (_shift_mix((y * _K2) ^ (z * _K0)) * _K2) & _MASK
    return _K2


def _up_to_32(s: bytes, size: int) -> int:
    multiplier = _K2 + size * 2
    a = (_u64(s, 0) * _K1) & _MASK
    b = _u64(s, 8)
    c = (_u64(s, size - 8) * multiplier) & _MASK
    d = (_u64(s, size - 16) * _K2) & _MASK
    return _mix((_rotate(a + b, 43) + _rotate(c, 30) + d) & _MASK, (a + _rotate(b + _K2, 18) + c) & _MASK, multiplier)


def _up_to_64(s: bytes, size: int) -> int:
    multiplier = _K2 + size * 2
    a = (_u64(s, 0) * _K2) & _MASK
    b = _u64(s, 8)
    c = (_u64(s, size - 8) * multiplier) & _MASK
    d = (_u64(s, size - 16) * _K2) & _MASK
    y = (_rotate(a + b, 43) + _rotate(c, 30) + d) & _MASK
    z = _mix(y, (a + _rotate(b + _K2, 18) + c) & _MASK, multiplier)
    e = (_u64(s, 16) * multiplier) & _MASK
    f = _u64(s, 24)
    g = ((y + _u64(s, size - 32)) * multiplier) & _MASK
    h = ((z + _u64(s, size - 24)) * multiplier) & _MASK
    return _mix((_rotate(e + f, 43) + _rotate(g, 30) + h) & _MASK, (e + _rotate(f + a, 18) + g) & _MASK, multiplier)


def _weak(s: bytes, at: int, a: int, b: int) -> tuple[int, int]:
    w, x, y, z = (_u64(s, at + offset) for offset in (0, 8, 16, 24))
    a = (a + w) & _MASK
    b = _rotate(b + a + z, 21)
    c = a
    a = (a + x + y) & _MASK
    b = (b + _rotate(a, 44)) & _MASK
    return (a + z) & _MASK, (b + c) & _MASK


def _long(s: bytes, size: int) -> int:
    x = 81
    y = (81 * _K1 + 113) & _MASK
    z = (_shift_mix(y * _K2 + 113) * _K2) & _MASK
    v = w = (0, 0)
    x = (x * _K2 + _u64(s, 0)) & _MASK
    last = ((size - 1) // 64) * 64
    tail = last + ((size - 1) & 63) - 63
    for at in range(0, last, 64):
        x = (_rotate(x + y + v[0] + _u64(s, at + 8), 37) * _K1) & _MASK
        y = (_rotate(y + v[1] + _u64(s, at + 48), 42) * _K1) & _MASK
        x ^= w[1]
        y = (y + v[0] + _u64(s, at + 40)) & _MASK
        z = (_rotate(z + w[0], 33) * _K1) & _MASK
        v = _weak(s, at, (v[1] * _K1) & _MASK, (x + w[0]) & _MASK)
        w = _weak(s, at + 32, (z + w[1]) & _MASK, (y + _u64(s, at + 16)) & _MASK)
        z, x = x, z
    multiplier = _K1 + ((z & 0xFF) << 1)
    w = ((w[0] + ((size - 1) & 63)) & _MASK, w[1])
    v = ((v[0] + w[0]) & _MASK, v[1])
    w = ((w[0] + v[0]) & _MASK, w[1])
    x = (_rotate(x + y + v[0] + _u64(s, tail + 8), 37) * multiplier) & _MASK
    y = (_rotate(y + v[1] + _u64(s, tail + 48), 42) * multiplier) & _MASK
    x ^= (w[1] * 9) & _MASK
    y = (y + v[0] * 9 + _u64(s, tail + 40)) & _MASK
    z = (_rotate(z + w[0], 33) * multiplier) & _MASK
    v = _weak(s, tail, (v[1] * multiplier) & _MASK, (x + w[0]) & _MASK)
    w = _weak(s, tail + 32, (z + w[1]) & _MASK, (y + _u64(s, tail + 16)) & _MASK)
    z, x = x, z
    first = (_mix(v[0], w[0], multiplier) + _shift_mix(y) * _K0 + z) & _MASK
    second = (_mix(v[1], w[1], multiplier) + x) & _MASK
    return _mix(first, second, multiplier)
