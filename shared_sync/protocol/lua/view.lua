-- What a page shows of a group: its consumers, what is parked, what was given up on. Writes nothing.
-- KEYS: stream, presence, holders, due, history, dead
-- ARGV: group, most consumers to return, most parked, most letters; and what the asker has of the
--       newest letters: how many, the newest id, the oldest id, and how many letters there were in all
-- Returns {now, consumers, parked, letters}, each of the three as its function below says, or the
-- text of the error where it was refused.

local MOST_NAMES = 1000  -- of consumers that are gone through
local MOST_PAGES = 20  -- of due times, each of twice as many as are returned of what is parked
local MOST_HISTORY = 1048576  -- bytes of histories, and below of letters, until no more are read
local MOST_LETTERS = 4194304
local LONGEST_TEXT = 2000
local LONGEST_FAILURE = 8000
local LONGEST_HOLDER = 1000

local stream, presence, holders = KEYS[1], KEYS[2], KEYS[3]
local due, history, dead = KEYS[4], KEYS[5], KEYS[6]
local group, most_consumers, most_parked = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local most_letters, known = tonumber(ARGV[4]), tonumber(ARGV[5])
local known_newest, known_oldest, known_total = ARGV[6], ARGV[7], tonumber(ARGV[8])
local now = now_ms()

local summary = redis.pcall('XPENDING', stream, group)
local has_group = not summary.err
if not has_group and not summary.err:find('NOGROUP') then return summary end

local function facts_of(info)
  local fact = {}
  for i = 1, #info, 2 do fact[info[i]] = info[i + 1] end
  return fact
end

-- {how many, {name, end of its lease or -1, pending, idle ms or -1, holder} ...}: first those that
-- left something behind, then the present, then the rest.
local function consumers()
  local rows, lease_ends = {}, {}
  local present = redis.call('ZRANGE', presence, -MOST_NAMES, -1, 'WITHSCORES')
  for i = 1, #present, 2 do lease_ends[present[i]] = tonumber(present[i + 1]) end
  if has_group then
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      local fact = facts_of(info)
      if fact['name'] == group and fact['consumers'] > MOST_NAMES then return 'TOOMANY' end
    end
    for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
      local fact = facts_of(info)
      local name = fact['name']
      if name ~= PARKED then
        rows[#rows + 1] = {name, lease_ends[name] or -1, fact['pending'], fact['idle']}
        lease_ends[name] = nil
      end
    end
  end
  for name, lease_end in pairs(lease_ends) do rows[#rows + 1] = {name, lease_end, 0, -1} end

  local function rank(row)
    if row[2] > now then return 1 end
    return row[3] > 0 and 0 or 2
  end
  table.sort(rows, function(a, b)
    local rank_a, rank_b = rank(a), rank(b)
    if rank_a ~= rank_b then return rank_a < rank_b end
    return a[1] < b[1]
  end)
  local found = {#rows}
  for i = 1, math.min(#rows, most_consumers) do
    local row = rows[i]
    row[5] = (redis.call('HGET', holders, row[1]) or ''):sub(1, LONGEST_HOLDER)
    row[1] = row[1]:sub(1, LONGEST_TEXT)
    found[i + 1] = row
  end
  return found
end

-- {how many, {id, when it is due, failures or -1 where not read, the last failure} ...}, soonest
-- first. Due times are hints: what is not parked any more is left out, and the next ones are gone
-- through for it, but not without end.
local function parked()
  local found, room = {0}, MOST_HISTORY
  for _, row in ipairs(has_group and summary[4] or {}) do
    if row[1] == PARKED then found[1] = tonumber(row[2]) end
  end
  if found[1] == 0 then return found end
  local page = 2 * most_parked
  for first = 0, (MOST_PAGES - 1) * page, page do
    local hints = redis.call('ZRANGE', due, first, first + page - 1, 'WITHSCORES')
    for i = 1, #hints, 2 do
      if #found > most_parked then return found end
      local id = hints[i]
      if pending_entry(stream, group, id) == PARKED then
        local failures, last = -1, ''
        if room > 0 then
          local notes = redis.call('HGET', history, id) or ''
          room = room - #notes
          failures = select(2, notes:gsub('\n', ''))
          last = (notes:match('([^\n]*)\n$') or ''):sub(1, LONGEST_FAILURE)
        end
        found[#found + 1] = {id, hints[i + 1], failures, last}
      end
    end
    if #hints < 2 * page then return found end
  end
  return found
end

-- {how many, newer ones than the asker has, 1 if what it has still is the rest or 0, older ones},
-- each {id, message id, reason, error type, error, attempts}, newest first.
--
-- A letter has the whole message in it, megabytes of audio perhaps, and the server can only read it
-- whole. It never changes, though: each is read once, and of many only so many at a time.
local function letters()
  local PLACES = {['dead.id'] = 2, ['dead.reason'] = 3, ['dead.error_type'] = 4,
    ['dead.error'] = 5, ['dead.attempts'] = 6}
  local room = MOST_LETTERS

  -- Read on from one end towards the other; whether it was reached.
  local function read(from, to, rows, most)
    while #rows < most and room > 0 do
      local entry = redis.call('XREVRANGE', dead, from, to, 'COUNT', 1)[1]
      if not entry then return true end
      local row, items = {entry[1], '', '', '', '', ''}, entry[2]
      for i = 1, #items, 2 do
        room = room - #items[i] - #items[i + 1]
        -- The last of a name is ours: it was put behind the message's own.
        local place = PLACES[items[i]]
        if place then row[place] = items[i + 1]:sub(1, LONGEST_TEXT) end
      end
      rows[#rows + 1] = row
      from = '(' .. entry[1]
    end
    return false
  end

  local total, fresh, older = redis.call('XLEN', dead), {}, {}
  local reached = read('+', known > 0 and '(' .. known_newest or '-', fresh, most_letters)
  local kept = known > 0 and reached and total == known_total + #fresh
  if kept then
    read('(' .. known_oldest, '-', older, most_letters - #fresh - known)
  elseif known > 0 then
    local last = fresh[#fresh]
    read(last and '(' .. last[1] or '+', '-', older, most_letters - #fresh)
  end
  return {total, fresh, kept and 1 or 0, older}
end

local function unless_refused(look)
  local done, found = pcall(look)
  if done then return found end
  return type(found) == 'table' and found.err or found
end

return {now, unless_refused(consumers), unless_refused(parked), unless_refused(letters)}
