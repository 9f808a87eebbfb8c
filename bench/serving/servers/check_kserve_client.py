"""Ask the service for networks with a real client of the Open Inference Protocol: `tritonclient[http]`.

`pnag bench serve` runs it in an environment of its own. By hand: pnag serve &, pip install "tritonclient[http]", and
python bench/serving/servers/check_kserve_client.py --url localhost:8000
"""

import argparse
import sys

import numpy as np
import tritonclient.http as triton


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="localhost:8000")
    parser.add_argument("--model", default="ofa-mobilenetv3-w1.0-imagenet")
    parser.add_argument("--budgets-ms", type=float, nargs="+", default=[4.0, 6.0, 8.0])
    arguments = parser.parse_args()
    client = triton.InferenceServerClient(arguments.url)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(arguments.model)
    metadata = client.get_model_metadata(arguments.model)
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["budget_ms"], metadata
    assert client.get_server_metadata()["name"] == "pnag"

    answers = []
    budgets = np.array(arguments.budgets_ms)
    for as_bytes in (True, False):
        for names in ([], ["encoding", "latency_upper_ms"]):
            tensor = triton.InferInput("budget_ms", budgets.shape, "FP64")
            tensor.set_data_from_numpy(budgets, binary_data=as_bytes)
            outputs = [triton.InferRequestedOutput(name, binary_data=as_bytes) for name in names]
            result = client.infer(arguments.model, [tensor], outputs=outputs or None, request_id="7")
            assert result.get_response()["id"] == "7"
            assert (result.as_numpy("latency_upper_ms") <= budgets).all()
            encodings = result.as_numpy("encoding").tolist()
            answers.append([value.decode() if isinstance(value, bytes) else value for value in encodings])
    assert all(answer == answers[0] for answer in answers), answers

    try:
        client.infer(arguments.model, [triton_input(np.array([0.001]))])
        sys.exit("an infeasible budget was answered")
    except triton.InferenceServerException as exc:
        if "needs" not in str(exc):
            raise
    sys.stdout.write(f"{len(answers)} ways of asking, one answer\n")


def triton_input(budgets: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> triton.InferInput:
    tensor = triton.InferInput("budget_ms", budgets.shape, "FP64")
    tensor.set_data_from_numpy(budgets)
    return tensor


if __name__ == "__main__":
    main()
