"""A client of the PNAG service: `from pnag_client import PnagClient` (needs httpx: `pip install pnag[client]`)."""

from pnag_client.client import AsyncPnagClient, PnagClient, PnagDamaged, PnagProblem, PnagUnreachable

__all__ = ["AsyncPnagClient", "PnagClient", "PnagDamaged", "PnagProblem", "PnagUnreachable"]
