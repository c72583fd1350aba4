"""What is meant to hold, and what a result says about it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.peers.arithmetic import operations
from benchmarks.peers.implementations import FIRST_ORDER, OURS
from benchmarks.peers.problems import MAIN

LOOPS = ("higher", "TorchOpt", "torch, task loop")
BY_HAND = ("jax, vmap of grad", "jax, grad of vmap")
VMAP, COMPILED = "torch.func vmap", "torch.compile of it"
FASTER: dict[str, dict[str, float]] = {
    "sinusoid-1": {**dict.fromkeys(LOOPS, 60), VMAP: 12, COMPILED: 2, **dict.fromkeys(BY_HAND, 2)},
    "sinusoid-5": {**dict.fromkeys(LOOPS, 60), VMAP: 12, **dict.fromkeys(BY_HAND, 2)},
    "sinusoid-10": {**dict.fromkeys(LOOPS, 60), VMAP: 12, COMPILED: 8, **dict.fromkeys(BY_HAND, 2)},
    "omniglot-5way-1shot-1": {"higher": 8, VMAP: 4, COMPILED: 2, **dict.fromkeys(BY_HAND, 80)},
    "omniglot-5way-1shot-5": {"higher": 6, VMAP: 4},
    "omniglot-20way-1shot-5": dict.fromkeys((*LOOPS, VMAP), 2.5),
    "transformer-5": {"higher": 1.5, VMAP: 2},
}
"""How many times faster innerloop is meant to be than each, at least."""
CENTRAL = "omniglot-5way-1shot-5"
"""The case in which memory, arithmetic and the price of exactness are judged."""
SMALLER, SHARE, DEARER, HELD = 10.0, 0.55, 2.3, 2.5
COMPILING = {"cold": 20.0, "warm": 2.0}


class Claim(NamedTuple):
    """What was seen, what was wanted, and whether it holds."""

    what: str
    seen: str
    wanted: str
    holds: bool


def claims(result: dict[str, Any]) -> Iterator[Claim]:
    """The claims whose measurement is there."""
    for case, targets in FASTER.items():
        for name, target in targets.items():
            ratio = over_ours(result, case, name, "seconds")
            if ratio is not None:
                yield _at_least(f"{case}: times faster than {name}", ratio, target)
    memory = over_ours(result, CENTRAL, VMAP, "peak_bytes")
    if memory is not None:
        yield _at_least(f"{CENTRAL}: times less memory than {VMAP}", memory, SMALLER)
    cheaper = over_ours(result, CENTRAL, FIRST_ORDER, "seconds")
    if cheaper is not None:
        floor = operations(MAIN[CENTRAL]) / operations(MAIN[CENTRAL], exact=False)
        claim = _at_most(f"{CENTRAL}: time of the exact gradient over first order", 1 / cheaper, DEARER)
        yield claim._replace(seen=f"{claim.seen} (arithmetic: {number(floor)})")
    if "machine" in result:
        ours, rate = seen_of(result, CENTRAL, OURS), result["machine"]["product_rate"]["jax"]
        if ours:
            share = operations(MAIN[CENTRAL]) / ours["seconds"] / rate
            yield _at_least(f"{CENTRAL}: share of the matrix-product rate", share, SHARE)
        held = result["machine"]["temporary_bytes"]
        segmented = min((name for name in held if "segment" in name), key=held.__getitem__)
        for name in ("Mixed", segmented):
            yield _at_most(f"temporary memory of {name} over first order", held[name] / held["FirstOrder"], HELD)
    if "presets" in result:
        for start, target in COMPILING.items():
            seconds, name = max((each[start], name) for name, each in result["presets"].items())
            yield _at_most(f"seconds of compiling {name}, the slowest preset, {start}", seconds, target)


def seen_of(result: dict[str, Any], case: str, name: str) -> dict[str, Any] | None:
    """What was measured of an implementation; `None` if it was not, or failed."""
    row = result["cases"].get(case, {}).get(name)
    return row if row and "failed" not in row else None


def over_ours(result: dict[str, Any], case: str, name: str, what: str) -> float | None:
    """What an implementation takes of something, over what innerloop takes."""
    ours, theirs = (seen_of(result, case, each) for each in (OURS, name))
    return theirs[what] / ours[what] if ours and theirs else None


def number(value: float) -> str:
    """Three digits, without an exponent.

    Example:
        >>> number(0.01234), number(12345.6)
        ('0.0123', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _at_least(what: str, seen: float, target: float) -> Claim:
    return Claim(what, number(seen), f"≥ {target:g}", seen >= target)


def _at_most(what: str, seen: float, target: float) -> Claim:
    return Claim(what, number(seen), f"≤ {target:g}", seen <= target)
