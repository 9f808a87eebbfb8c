"""A bounded memory that threads share without a lock, which `cachetools` and its caches need."""

from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Values asked for lately, at least half of `size` of them. Threads may share it: at worst a value is lost."""

    def __init__(self, size: int) -> None:
        self._half = size // 2
        self._new: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """None for an unknown key."""
        value = self._new.get(key)
        if value is None and (value := self._old.get(key)) is not None:
            self.put(key, value)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Remember a value, which is not None."""
        if len(self._new) >= self._half:
            self._new, self._old = {}, self._new
        self._new[key] = value
