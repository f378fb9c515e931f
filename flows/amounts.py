"""Quantities and times as people read them."""

PREFIXES = (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
SPANS = (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60))


def amount(value: float, unit: str) -> str:
    """Return a quantity with a prefix: 3.21 GB."""
    for prefix, size in PREFIXES:
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, size in SPANS:
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    if seconds >= 1:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2f} s"
    return f"{seconds * 1000:.3g} ms"
