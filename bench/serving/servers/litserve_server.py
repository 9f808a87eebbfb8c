"""The generator under LitServe: one worker process, its own batching."""

import os
from typing import Any

import litserve

from pnag.bench.serving.servers.served_bundle import ServedBundle


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self._bundle = ServedBundle()

    def decode_request(self, request: dict[str, Any]) -> float:
        return float(request["budget_ms"])

    def batch(self, inputs: list[float]) -> list[float]:
        return inputs

    def predict(self, budgets_ms: list[float]) -> list[dict[str, Any]]:
        return self._bundle.answer(budgets_ms)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    api = Api(
        max_batch_size=int(os.environ["MAX_BATCH_SIZE"]),
        batch_timeout=float(os.environ["BATCH_TIMEOUT_S"]),
        api_path="/generate",
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(os.environ["WORKERS"]), timeout=60)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", generate_client_file=False)
