"""The cache of compiled programs, whose entries are sealed: a damaged one is compiled anew and replaced."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

LENGTH = hashlib.sha256().digest_size
_sealed: set[Path] = set()
"""The folders whose entries carry a checksum."""


def keep_in(folder: Path) -> None:
    """Have JAX keep compiled programs in a folder of ours.

    JAX reads an entry as it lies there, and never writes one that exists. So each gets its SHA-256 at the end, and one
    whose checksum differs is removed, which for JAX is one that was never there.

    Args:
        folder: nobody else's, for other programs cannot read such entries.
    """
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # fifty small programs make a sitting
    try:
        from jax._src.lru_cache import LRUCache
    except ImportError:  # another version of JAX; then entries are as it writes them
        return
    if not _sealed:
        _seal(LRUCache)
    _sealed.add(folder)


def _seal(cache: Any) -> None:
    """Have a class of caches write checksums and look at them, in the folders of ours."""
    get, put = cache.get, cache.put

    def sealed_get(self: Any, key: str) -> bytes | None:
        value = get(self, key)
        if value is None or Path(str(self.path)) not in _sealed:
            return value
        content = value[:-LENGTH]
        if hashlib.sha256(content).digest() == value[-LENGTH:]:
            return content
        with suppress(OSError):
            (Path(str(self.path)) / f"{key}-cache").unlink()
        return None

    def sealed_put(self: Any, key: str, value: bytes) -> None:
        ours = Path(str(self.path)) in _sealed
        put(self, key, value + hashlib.sha256(value).digest() if ours else value)

    cache.get, cache.put = sealed_get, sealed_put
