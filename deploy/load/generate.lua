-- For wrk: POST /generate with budgets that were asked before (hit), or that never were (miss).
--   wrk -t 1 -c 64 -d 20 -s generate.lua http://127.0.0.1:8080 -- hit KEY SEED
-- Prints one line of JSON; report.py makes a table of them.

local mode, key, seed = "hit", "", 1
local headers = {["Content-Type"] = "application/json"}
local random

-- Lua's own generator is shared and short; this one (Park and Miller) is each thread's own.
local function generator(state)
  return function(n)
    state = state * 16807 % 2147483647
    return state % n
  end
end

local count = 0
function setup(thread)
  count = count + 1
  thread:set("number", count)
end

function init(args)
  mode, key, seed = args[1] or mode, args[2] or key, tonumber(args[3] or seed)
  headers["Authorization"] = "Bearer " .. key
  random = generator(seed * 7919 + number * 104729 + 1)
end

function request()
  -- A million budgets to a thousandth of a millisecond: hardly any comes twice. Those beyond the bundle's range run too.
  local budget_ms = mode == "hit" and 15 + random(100) / 5 or 15 + random(1000000) / 1000
  return wrk.format("POST", "/generate", headers, string.format('{"budget_ms": %.3f}', budget_ms))
end

function done(summary, latency, _)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format(
    '{"requests": %d, "seconds": %.1f, "per_s": %.0f, "p50_ms": %.2f, "p99_ms": %.2f, "max_ms": %.1f, "not_200": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3, summary.errors.status, failed))
end
