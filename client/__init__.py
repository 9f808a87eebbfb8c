"""A client of the PNAG service: `from client import PnagClient` (needs httpx: `pip install pnag[client]`)."""

from client.client import AsyncPnagClient, PnagClient, PnagDamaged, PnagProblem, PnagUnreachable

__all__ = ["AsyncPnagClient", "PnagClient", "PnagDamaged", "PnagProblem", "PnagUnreachable"]
