-- A strict reader of Prometheus' text format 0.0.4: raises where the text breaks a rule, so that a spec that reads metrics checks
-- them too. Rules: https://prometheus.io/docs/instrumenting/exposition_formats/ (line syntax, escapes, one group for each metric,
-- no sample twice, histograms whole and rising).

local M = {}

local function unescape(text, line)
  return (text:gsub("\\(.?)", function(c)
    local plain = ({ ["\\"] = "\\", n = "\n", ['"'] = '"' })[c]
    return plain or error("a bad escape: " .. line, 0)
  end))
end

local function read_labels(text, line)
  local labels, at = {}, 1
  while at <= #text do
    local name, value = text:match('^([%a_][%w_]*)="()', at)
    if not name then
      error("bad labels: " .. line, 0)
    end
    local stop = value
    while text:sub(stop, stop) ~= '"' do
      if stop > #text then
        error("a label without an end: " .. line, 0)
      end
      stop = stop + (text:sub(stop, stop) == "\\" and 2 or 1)
    end
    if labels[name] then
      error("a label twice: " .. line, 0)
    end
    labels[name] = unescape(text:sub(value, stop - 1), line)
    at = stop + 1
    if text:sub(at, at) == "," then
      at = at + 1
    elseif at <= #text then
      error("something between labels: " .. line, 0)
    end
  end
  return labels
end

local function read_number(text, line)
  local special = { ["+Inf"] = math.huge, ["-Inf"] = -math.huge, NaN = 0 / 0 }
  return special[text] or (not text:find "[xX]" and tonumber(text)) or error("a bad number: " .. line, 0)
end

local function key_of(labels, without)
  local names = {}
  for name in pairs(labels) do
    if name ~= without then
      names[#names + 1] = name
    end
  end
  table.sort(names)
  for i, name in ipairs(names) do
    names[i] = ("%s=%q"):format(name, labels[name])
  end
  return table.concat(names, ",")
end

local function check_histogram(name, family)
  local last, infinite = {}, {}
  for _, sample in ipairs(family.samples) do
    local key = key_of(sample.labels, "le")
    if sample.name == name .. "_bucket" then
      local le = read_number(sample.labels.le or error(name .. ": a bucket without le", 0), name)
      local before = last[key] or { le = -math.huge, value = 0 }
      if le <= before.le or sample.value < before.value then
        error(name .. ": buckets do not rise", 0)
      end
      last[key] = { le = le, value = sample.value }
      if le == math.huge then
        infinite[key] = sample.value
      end
    elseif sample.name == name .. "_count" and sample.value ~= infinite[key] then
      error(name .. ": the count is not the last bucket", 0)
    elseif sample.name ~= name .. "_count" and sample.name ~= name .. "_sum" then
      error(name .. ": a sample that does not belong to a histogram", 0)
    end
  end
end

--- `{ [metric] = { type, help, samples = { { name, labels, value }, … } } }`, with `value(labels)` of each metric.
function M.parse(text)
  local families, family, family_name, seen = {}, nil, nil, {}
  assert(text == "" or text:sub(-1) == "\n", "the last line has no end")
  assert(utf8.len(text), "this is not UTF-8")
  for line in text:gmatch "([^\n]*)\n" do
    assert(not line:find "%c", "a control character: " .. line)
    local word, name, rest = line:match "^# (%u+) ([%a_:][%w_:]*) (.*)$"
    if word == "HELP" then
      assert(not families[name], "a metric in two places: " .. line)
      family_name, family = name, { help = unescape(rest, line), samples = {} }
      families[name] = family
    elseif word == "TYPE" then
      assert(name == family_name and not family.type and #family.samples == 0, "TYPE out of place: " .. line)
      assert(rest:find "^[cghsu]%l+$", "a bad type: " .. line)
      family.type = rest
    elseif line ~= "" and line:sub(1, 1) ~= "#" then
      local sample, after = line:match "^([%a_:][%w_:]*)(.*)$"
      local labels, value = after:match "^{(.*)} (%S+)$"
      value = value or after:match "^ (%S+)$"
      assert(sample and value, "a bad line: " .. line)
      local base = family and family.type == "histogram" and sample:gsub("_bucket$", ""):gsub("_sum$", ""):gsub("_count$", "") or sample
      assert(base == family_name, "a sample outside its metric: " .. line)
      labels = read_labels(labels or "", line)
      local key = sample .. "{" .. key_of(labels) .. "}"
      assert(not seen[key], "a sample twice: " .. line)
      seen[key] = true
      table.insert(family.samples, { name = sample, labels = labels, value = read_number(value, line) })
    end
  end
  for name, each in pairs(families) do
    assert(each.type, name .. " has no type")
    if each.type == "histogram" then
      check_histogram(name, each)
    end
  end
  return families
end

--- The value of the sample of that name with at least these labels; nil when there is none, an error when there are two.
function M.value(families, name, labels)
  local found
  for _, base in ipairs { name, (name:gsub("_%l+$", "")) } do
    for _, sample in ipairs(families[base] and families[base].samples or {}) do
      local fits = sample.name == name
      for label, value in pairs(labels or {}) do
        fits = fits and sample.labels[label] == value
      end
      if fits then
        assert(not found, "more than one sample fits")
        found = sample.value
      end
    end
    if found then
      break
    end
  end
  return found
end

return M
