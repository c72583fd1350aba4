"""The cache of compiled programs, whose entries are sealed: a damaged one is compiled anew and replaced."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from innerloop.errors import InnerloopError
from innerloop.files import cache_dir

LENGTH = hashlib.sha256().digest_size
SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
_sealed: set[Path] = set()
"""The folders whose entries carry a checksum."""
_lock, _inside, _before = Lock(), list[None](), dict[str, Any]()
"""Who is inside of `kept` now, and JAX's settings before the first of them."""


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


def folder() -> Path:
    """Where compiled programs are kept, in the user's cache.

    Raises:
        InnerloopError: if the cache cannot be made.
    """
    place = cache_dir() / "xla"
    with suppress(OSError):  # JAX says so if it cannot write there, and goes on
        place.mkdir(exist_ok=True, mode=0o700)
    return place


@contextmanager
def kept() -> Iterator[None]:
    """Keep what is compiled inside between processes, unless the user told JAX where to keep programs, or not to.

    For the library, whose caller's settings stay as they are: afterwards JAX keeps programs where it did before. What
    other threads compile meanwhile may be kept as well.
    """
    with _lock:
        ours = bool(_inside) or _begin()
        _inside.extend([None] * ours)
    try:
        yield
    finally:
        with _lock:
            del _inside[len(_inside) - ours :]
            if ours and not _inside:
                _end()


def _begin() -> bool:
    """Whether the cache is now ours for a while."""
    import jax

    asked = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if asked is not None or not jax.config.jax_enable_compilation_cache:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    try:
        place = folder()
    except InnerloopError:  # a home that cannot be written to is no reason not to predict
        return False
    _before.update({name: getattr(jax.config, name) for name in SETTINGS})
    keep_in(place)
    return True


def _end() -> None:
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    for name, value in _before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


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
