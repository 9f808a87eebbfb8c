"""The generator under MLServer: adaptive batching, Open Inference Protocol."""

import orjson
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from pnag.bench.serving.servers.served_bundle import ServedBundle


class PnagRuntime(MLModel):
    async def load(self) -> bool:
        self._bundle = ServedBundle()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        budgets_ms = NumpyCodec.decode_input(payload.inputs[0]).ravel().tolist()
        answers = [orjson.dumps(answer).decode() for answer in self._bundle.answer(budgets_ms)]
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("answer", answers)])
