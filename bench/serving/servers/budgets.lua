-- wrk asks for budgets that all differ, evenly over a range, in the body that a server wants.
-- arguments: low_ms high_ms, the number of the first budget, template, with %BUDGET% in the template
local low, high, template, n
function init(args)
  low, high, template = tonumber(args[1]), tonumber(args[2]), args[4]
  n = tonumber(args[3])
  wrk.method = "POST"
  wrk.headers["content-type"] = "application/json"
end
function request()
  n = n + 1
  -- steps of the golden ratio: distinct, and no two near each other in time are near in value
  local share = (n * 0.6180339887498949) % 1
  local body = template:gsub("%%BUDGET%%", string.format("%.6f", low + (high - low) * share))
  return wrk.format(nil, nil, nil, body)
end
