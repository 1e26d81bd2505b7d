"""Numbers, durations and what becomes of a job, as people read them."""


def duration(seconds: float) -> str:
    """``0.8 s``, ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def complete_text(name: str) -> str:
    """Of a job that a run finds complete."""
    return f"Job {name} is complete already (--again starts it anew)."


def continues_text(committed: int, shards: int) -> str:
    """Of a job that a run goes on with."""
    return f"continues: {committed:,} of {shards:,} shards are committed"


def corrupt_text(unit: str, count: int, parts: int = 0, lost: int = 0) -> str:
    """``3 ranges``, ``100 rows``: what could not be read, as it is accounted for.

    With `parts` of `count` that can't be counted: ``100 rows and about 20,000 rows of 5 files``.
    """
    word = "range" if unit == "byte" else "row"
    known = count - parts
    told = [f"{known:,} {word}{'s' * (known != 1)}"] if known or not parts else []
    if parts:
        of = "range" if unit == "byte" else "file"
        told.append(f"about {lost:,} row{'s' * (lost != 1)} of {parts:,} {of}{'s' * (parts != 1)}")
    return " and ".join(told)


def eta(low_s: float, high_s: float) -> str:
    """The time to go: a range until it is known to a quarter, then one figure."""
    if low_s < 0 or high_s < 0:
        return "not known yet"
    if high_s - low_s <= max(2.0, 0.25 * high_s):
        return f"about {duration((low_s + high_s) / 2)}"
    return f"{duration(low_s)} to {duration(high_s)}"


def size(nbytes: int) -> str:
    """``512 B``, ``3.4 MB`` (powers of 1,000)."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError(nbytes)
