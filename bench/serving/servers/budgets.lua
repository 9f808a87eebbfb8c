-- wrk asks for budgets that all differ, evenly over a range, in the body that a server wants.
-- arguments: low_ms high_ms, the number of the first budget, template with %BUDGET% in it, API key (may be empty)
-- The last line it prints is one of JSON: the fields of Round in bench/serving/wrk.py.
local low, high, template, n
function init(args)
  low, high, template = tonumber(args[1]), tonumber(args[2]), args[4]
  n = tonumber(args[3])
  wrk.method = "POST"
  wrk.headers["content-type"] = "application/json"
  if args[5] and args[5] ~= "" then wrk.headers["authorization"] = "Bearer " .. args[5] end
end
function request()
  n = n + 1
  -- steps of the golden ratio: distinct, and no two near each other in time are near in value
  local share = (n * 0.6180339887498949) % 1
  local body = template:gsub("%%BUDGET%%", string.format("%.6f", low + (high - low) * share))
  return wrk.format(nil, nil, nil, body)
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "requests_per_s": %.2f, "p50_ms": %.3f, "p99_ms": %.3f, "refused": %d, "broken": %d, "late": %d}\n',
    summary.requests, summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end
