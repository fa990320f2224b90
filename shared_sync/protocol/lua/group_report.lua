-- What the workers of a group report of themselves, and its newest events. Only reads.
-- KEYS: presence, reports, events
-- ARGV: most reports, most events, id of the newest event that is known, or ''
-- Returns {now, consumers alive, {name, report} of those that have one, newest events}. Events are as
-- XREVRANGE returns them, none if the newest one is known. In the place of the reports or the events
-- stands the text of the error if they were refused.

local MOST_NAMES = 1000  -- consumers that are visited
local LONGEST_REPORT = 32768  -- longer ones are left out, in bytes
local LONGEST_VALUE = 4000  -- of an event; longer ones are cut
local MOST_ITEMS = 20  -- names and values of an event

local presence, reports, events = KEYS[1], KEYS[2], KEYS[3]
local most_reports, most_events, known = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local now = now_ms()

local alive = {}
local present = redis.call('ZRANGE', presence, -MOST_NAMES, -1, 'WITHSCORES')
for i = 1, #present, 2 do
  if tonumber(present[i + 1]) > now then alive[#alive + 1] = present[i] end
end

local function read_reports()
  table.sort(alive)
  local found = {}
  for _, name in ipairs(alive) do
    if #found >= most_reports then break end
    local stored = redis.call('HGET', reports, name)
    if stored and #stored <= LONGEST_REPORT then found[#found + 1] = {name, stored} end
  end
  return found
end

local function read_events()
  local newest = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)
  if not newest[1] or newest[1][1] == known then return {} end
  local found = redis.call('XREVRANGE', events, '+', '-', 'COUNT', most_events)
  for _, event in ipairs(found) do
    local items = {}
    for i = 1, math.min(#event[2], MOST_ITEMS) do items[i] = event[2][i]:sub(1, LONGEST_VALUE) end
    event[2] = items
  end
  return found
end

local function unless_refused(read)
  local done, found = pcall(read)
  if done then return found end
  return type(found) == 'table' and found.err or found
end

return {now, #alive, unless_refused(read_reports), unless_refused(read_events)}
