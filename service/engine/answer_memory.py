"""The one memory of ready answers in this process.

An answer is kept under its question, and the digest of the bundle is part of that: equal digests answer alike, so no
answer ever gets old, and those of a bundle that is gone make room by themselves.

The bytes of a request lead to the same answer without parsing, the key and a second look-up: those would be a quarter
of what a remembered answer costs (docs/benchmarks-serving.md). Which bundle a body asks depends on which there are, so
these links hold for one digest of the catalogue.
"""

from dataclasses import dataclass
from typing import TypeAlias

from cachetools import LRUCache

MAX_LINKED_BODY = 512
"""Bytes. Longer bodies could be many and all different, each with the same answer."""

Key: TypeAlias = tuple[str | int | float | None, ...]
"""Digest of a bundle, then a question in its one canonical form."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A ready answer, and where it came from: memory, redis, shared (with a request that asked before), or miss."""

    content: bytes
    cache: str


class AnswerMemory:
    """The answers that were asked for lately, `size` at most; 0 keeps none."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._replies: LRUCache[Key, Reply] = LRUCache(size)
        self._of_body: dict[bytes, Reply] = {}
        self._catalogue_digest = ""

    def of_body(self, body: bytes, catalogue_digest: str) -> Reply | None:
        """The answer that these bytes got from these bundles."""
        if self._catalogue_digest != catalogue_digest:
            self._catalogue_digest, self._of_body = catalogue_digest, {}
        return self._of_body.get(body)

    def get(self, key: Key) -> Reply | None:
        """The answer to a question."""
        return self._replies.get(key)

    def put(self, key: Key, content: bytes) -> None:
        """Keep an answer; the one that was asked for longest ago makes room."""
        if self._size:
            self._replies[key] = Reply(content, "memory")

    def link_body(self, body: bytes, catalogue_digest: str, key: Key) -> None:
        """Link a body to an answer that is kept, unless the bundles have changed since it was asked."""
        reply = self._replies.get(key)
        if reply is None or catalogue_digest != self._catalogue_digest or len(body) > MAX_LINKED_BODY:
            return
        if len(self._of_body) >= self._size:
            self._of_body.clear()
        self._of_body[body] = reply
