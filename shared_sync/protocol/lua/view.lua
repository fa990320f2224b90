-- The tables of a group that a page shows: consumers, parked messages, dead letters. Only reads.
-- KEYS: stream, presence, holders, due, history, dead
-- ARGV:
--   1       group
--   2 to 4  most consumers, most parked messages, most dead letters to return
--   5 to 8  the dead letters of the last call: how many it returned, id of the newest, id of the
--           oldest, and how many there were in all
-- Returns {now, consumers, parked, dead letters}, each of the three as its function below says, or
-- the text of the error if it was refused.

local MOST_NAMES = 1000  -- consumers that are visited
local MOST_PAGES = 20  -- pages of due times, each of twice as many as parked messages are returned
local MOST_HISTORY = 1048576  -- bytes of histories that are read
local MOST_LETTER_BYTES = 4194304  -- of dead letters that are read
local MOST_LETTERS_READ = 200
-- Longer texts are cut, in bytes.
local LONGEST_TEXT = 2000
local LONGEST_FAILURE = 8000
local LONGEST_IDENTITY = 1000

local stream, presence, holders = KEYS[1], KEYS[2], KEYS[3]
local due, history, dead = KEYS[4], KEYS[5], KEYS[6]
local group, most_consumers, most_parked = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local most_letters, known = tonumber(ARGV[4]), tonumber(ARGV[5])
local known_newest, known_oldest, known_total = ARGV[6], ARGV[7], tonumber(ARGV[8])
local now = now_ms()

local summary = redis.pcall('XPENDING', stream, group)
local has_group = not summary.err
if not has_group and not summary.err:find('NOGROUP') then return summary end

-- Consumers of the group come first if their lease has ended and they left messages, then those
-- that live, then the rest.
local function consumer_rank(row)
  local lease_end, pending = row[2], row[3]
  if lease_end > now then return 1 end
  return pending > 0 and 0 or 2
end

local function comes_first(a, b)
  local rank_a, rank_b = consumer_rank(a), consumer_rank(b)
  if rank_a ~= rank_b then return rank_a < rank_b end
  return a[1] < b[1]
end

-- Returns {how many there are, {name, lease end or -1, pending, idle ms or -1, identity} ...}.
local function read_consumers()
  local rows, lease_ends = {}, {}
  local present = redis.call('ZRANGE', presence, -MOST_NAMES, -1, 'WITHSCORES')
  for i = 1, #present, 2 do lease_ends[present[i]] = tonumber(present[i + 1]) end
  if has_group then
    for _, facts in ipairs(groups_of(stream)) do
      if facts['name'] == group and facts['consumers'] > MOST_NAMES then return 'TOOMANY' end
    end
    for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
      local facts = facts_of(info)
      local name = facts['name']
      if name ~= PARKED then
        rows[#rows + 1] = {name, lease_ends[name] or -1, facts['pending'], facts['idle']}
        lease_ends[name] = nil
      end
    end
  end
  for name, lease_end in pairs(lease_ends) do rows[#rows + 1] = {name, lease_end, 0, -1} end

  table.sort(rows, comes_first)
  local found = {#rows}
  for i = 1, math.min(#rows, most_consumers) do
    local row = rows[i]
    row[5] = (redis.call('HGET', holders, row[1]) or ''):sub(1, LONGEST_IDENTITY)
    row[1] = row[1]:sub(1, LONGEST_TEXT)
    found[i + 1] = row
  end
  return found
end

-- Returns {how many there are, {id, due time, failures or -1 if not read, last failure, deliveries}
-- ...}, the first due first. Due times are hints: those of messages that are not parked are passed
-- over.
local function read_parked()
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
      local owner, deliveries = pending_entry(stream, group, id)
      if owner == PARKED then
        local failures, last = -1, ''
        if room > 0 then
          local lines = redis.call('HGET', history, id) or ''
          room = room - #lines
          failures = select(2, lines:gsub('\n', ''))
          last = (lines:match('([^\n]*)\n$') or ''):sub(1, LONGEST_FAILURE)
        end
        found[#found + 1] = {id, hints[i + 1], failures, last, deliveries}
      end
    end
    if #hints < 2 * page then return found end
  end
  return found
end

-- Returns {how many there are, those newer than the known ones, 1 if the known ones are still right
-- or 0, older ones}. Each is {id, message id, reason, error type, error, attempts, its bytes},
-- newest first.
--
-- A dead letter contains the whole message, megabytes of audio perhaps, and the server can read
-- only all of it. It never changes, so each is read once, and in one call some hundred small ones
-- or few large ones.
local function read_letters()
  local PLACES = {['dead.id'] = 2, ['dead.reason'] = 3, ['dead.error_type'] = 4,
    ['dead.error'] = 5, ['dead.attempts'] = 6}
  local room, left = MOST_LETTER_BYTES, MOST_LETTERS_READ

  -- Read from one id down to another. Returns whether it got there.
  local function read(from, to, rows, most)
    while #rows < most and room > 0 and left > 0 do
      local entry = redis.call('XREVRANGE', dead, from, to, 'COUNT', 1)[1]
      if not entry then return true end
      local row, items, size = {entry[1], '', '', '', '', ''}, entry[2], 0
      for i = 1, #items, 2 do
        size = size + #items[i] + #items[i + 1]
        -- If the message has a field of that name, the last one is ours: bury.lua appends it.
        local place = PLACES[items[i]]
        if place then row[place] = items[i + 1]:sub(1, LONGEST_TEXT) end
      end
      row[7] = size
      rows[#rows + 1] = row
      room, left = room - size, left - 1
      from = '(' .. entry[1]
    end
    return false
  end

  local total, newer, older = redis.call('XLEN', dead), {}, {}
  local all_newer = read('+', known > 0 and '(' .. known_newest or '-', newer, most_letters)
  local known_are_right = known > 0 and all_newer and total == known_total + #newer
  if known_are_right then
    read('(' .. known_oldest, '-', older, most_letters - #newer - known)
  elseif known > 0 then
    local last = newer[#newer]
    read(last and '(' .. last[1] or '+', '-', older, most_letters - #newer)
  end
  return {total, newer, known_are_right and 1 or 0, older}
end

local function unless_refused(read)
  local done, found = pcall(read)
  if done then return found end
  return type(found) == 'table' and found.err or found
end

return {now, unless_refused(read_consumers), unless_refused(read_parked),
  unless_refused(read_letters)}
