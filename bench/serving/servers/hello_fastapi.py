"""FastAPI's first example, and the least route that knows what it was asked."""

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Ask(BaseModel):
    budget_ms: float


@app.post("/hello")
async def hello():  # an annotation would have the answer checked, and cost time
    return {"message": "Hello World"}


@app.post("/generate")
async def generate(ask: Ask):  # type: ignore[no-untyped-def]
    return {"budget_ms": ask.budget_ms}
