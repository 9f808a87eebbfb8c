// Talks to the service. Three kinds of failure, told apart by class: what the service refuses (Problem), that it cannot be
// reached (Gone), and a request given up (an AbortError, passed on).

const KEY = "pnag-key";

export class Problem extends Error {
  constructor(status, body, retryAfterS) {
    super(body.detail || body.title || `status ${status}`);
    this.status = status;
    this.body = body;
    this.code = String(body.type || "").replace("urn:pnag:problem:", "");
    this.retryAfterS = retryAfterS;
  }

  get isOverload() {
    return this.status === 503 || this.status === 429;
  }
}

export class Gone extends Error {}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
};

export const authorization = () => (key.get() ? { authorization: `Bearer ${key.get()}` } : {});

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, ...authorization() } });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Gone(`${path}: ${error.message}`);
  }
  const body = await read(response);
  if (!response.ok) throw new Problem(response.status, body, Number(response.headers.get("retry-after")) || 1);
  return body;
}

/** A file as the service sends it. */
export async function file(path) {
  const response = await fetch(path, { headers: authorization() });
  if (!response.ok) throw new Problem(response.status, await read(response), 1);
  return response.blob();
}

async function read(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    // A gateway's page in place of the service's answer, or an answer cut off: the service itself did not speak.
    throw new Gone(`${response.url}: status ${response.status}, and no JSON`);
  }
}

export const bundles = async () => (await call("/bundles")).bundles;

// As many points as a wide chart has room for; a front can hold thousands.
const FRONT_POINTS = 500;

export const front = async (bundle) => (await call(`/pareto-front?bundle=${encodeURIComponent(bundle)}&points=${FRONT_POINTS}`)).points;

export const known = (bundle) => call(`/bundles/${encodeURIComponent(bundle)}/known`);

export async function isReady() {
  try {
    await call("/readyz");
    return true;
  } catch {
    return false;
  }
}

/**
 * The answer to a question, or the problem in its place. Asked as a batch of one: there, an infeasible budget is an answer
 * among others (200) and no failed request, which the browser would log as an error for every step of a slider.
 */
export async function generate({ budget_ms, ...conditions }, signal) {
  const body = await call("/generate/batch", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ budgets_ms: [budget_ms], ...conditions }),
    signal,
  });
  const [result] = body.results;
  if (result.status) {
    const problem = new Problem(result.status, result, 1);
    if (problem.isOverload) throw problem;
    return { problem };
  }
  return { answer: result };
}
