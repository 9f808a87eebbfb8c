// The shown answer, to be asked for again from elsewhere. A key is named, never written out.

const url = () => `${location.origin}/generate`;

export function curl(question, needsKey) {
  const key = needsKey ? ' \\\n  -H "authorization: Bearer $PNAG_API_KEY"' : "";
  const body = JSON.stringify(question).replaceAll("'", "'\\''");
  return `curl -sS ${url()}${key} \\\n  -H 'content-type: application/json' \\\n  -d '${body}'`;
}

export function python(question, needsKey) {
  const key = needsKey ? ', "authorization": "Bearer " + os.environ["PNAG_API_KEY"]' : "";
  return `import json${needsKey ? ", os" : ""}
from urllib.request import Request, urlopen

question = ${JSON.stringify(question)}
headers = {"content-type": "application/json"${key}}
with urlopen(Request("${url()}", json.dumps(question).encode(), headers)) as response:
    answer = json.load(response)
print(answer["architecture"]["encoding"], answer["predicted"]["top1_percent"])
`;
}

export const exportCommand = ({ encoding }, bundle) =>
  `pnag export --bundle bundles/${bundle} --architecture ${encoding} --weights FILE --out model.onnx`;

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Plain http on another machine has no clipboard API; a selection still can be copied.
    const area = Object.assign(document.createElement("textarea"), { value: text, readOnly: true });
    area.className = "hidden";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw new Error("the browser did not let us copy");
  }
}
