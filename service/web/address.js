// The page's state as its address: same names as in the API, so that a shared link reads like a request.

export const LIMITS = ["macs_m", "params_m", "size_mb", "peak_memory_mb"];

const positive = (text) => (text !== null && Number(text) > 0 && Number.isFinite(Number(text)) ? Number(text) : null);

export function read() {
  const query = new URLSearchParams(location.search);
  const limits = {};
  for (const name of LIMITS) if (positive(query.get(name))) limits[name] = positive(query.get(name));
  return {
    bundle: query.get("bundle"),
    compare: query.get("compare"),
    budget_ms: positive(query.get("budget_ms")),
    coverage: positive(query.get("coverage")),
    limits,
  };
}

/** Only what differs from the defaults is spelled out. */
export function write({ bundle, compare, budget_ms, coverage, limits }) {
  const query = new URLSearchParams();
  if (bundle) query.set("bundle", bundle);
  if (compare) query.set("compare", compare);
  query.set("budget_ms", String(budget_ms));
  if (coverage !== null) query.set("coverage", String(coverage));
  for (const [name, value] of Object.entries(limits)) query.set(name, String(value));
  history.replaceState(null, "", `?${query}`);
}
