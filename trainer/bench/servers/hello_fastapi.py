"""FastAPI's first example: a route that reads nothing and says hello."""

from fastapi import FastAPI

app = FastAPI()


@app.post("/generate")
async def hello():  # noqa: ANN201  # an annotation would have it checked and cost time
    return {"message": "Hello World"}
