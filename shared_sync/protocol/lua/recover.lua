-- One step of recovery: take over messages that nobody works on.
--
-- A step visits four places:
--   due      parked messages whose time has come;
--   own      messages of this consumer's name that no reader has. An earlier process of this name
--            left them, or they were lost with a reply on its way. The lost ones are only named,
--            so that whoever asks for one again knows which one breaks its connection;
--   dead     messages of consumers whose lease has ended;
--   foreign  messages of other programs, which are not on record here, once idle for long enough.
-- It visits LOOK entries at most in each place, and returns where the next step goes on.
--
-- Crash accounting. The server counts the deliveries of a message, and `history` has a line for
-- each that ended in a failure. A delivery that was handed back is taken back. So
--     crashes = deliveries before this one - failures.
-- Taking a message from a dead consumer, or from an earlier process of this name, charges it with a
-- crash, because its delivery ended in nothing. A reply that was lost on its way has reached no
-- process, so taking that message again charges nothing. A name with neither a lease nor a claim is
-- another program's: its deliveries do not count, so taking its messages sets the count to what
-- their history tells. The rules, which `redis_consumer/crashes.py` explains:
--   * Messages without a crash are taken many at a time.
--   * A suspect, which has a crash behind it, is taken alone. It waits while it has more crashes
--     than `startable crashes`, and while a message of the same read of the same dead consumer runs
--     again.
--   * A message with `max crashes` never runs. It is taken to be buried, and does not wait.
--
-- A due message is left to others for some time, if any live: for up to a second if its last failure was
-- on this consumer; for a minute if a worker broke at it, and this process has finished no message yet.
--
-- KEYS: stream, history, due, presence, holders, outage, cancelled, progress
-- ARGV:
--    1 to 5   group, consumer, identity, lease ms, grace ms
--    6        idle ms after which an own message without a reader counts as left behind
--    7        ms at which this process claimed its name
--    8        '1' if the previous process of that name read one message at a time, 'foreign' if it
--             was another program, or ''
--    9 to 11  max crashes, startable crashes, most messages without a crash to take
--   12 to 16  where to go on: rank among the due times; id of an own message, or '' to pass over
--             these; rank in the presence, or -1 to pass over dead and foreign consumers; id of a
--             message of that consumer; id of a message of the first foreign consumer
--   17        '1' to visit due messages last, or ''
--   18        ms after which an idle message of another program is taken over
--   19        id of a message that was lost with a reply, to take again, alone; or ''
--   20        '1' if this process has finished any message, or ''
--   21        number of names that perhaps have no lease, followed by the names
--   then      number of reads to keep apart, followed by consumer and ms of delivery of each
--   then      the ids that this process has in flight
-- Returns {taken, of how many the entry was gone, ms until the next parked message is due or -1,
-- where to go on (five values as in 12 to 16), how many of the foreign consumers are done, 1 if
-- there is more or 0, messages that were lost with a reply, the stored progress of taken messages (id
-- and progress in turn), the ids of cancelled messages (MOST_MARKS at most) if any message was taken and
-- they may be read, or nil}. Each taken message is {id, fields, deliveries, history or nil}; if it was
-- left behind, then also the consumer that left it, and the ms at which it was delivered there. Each
-- lost one is {id, deliveries, history or nil, ms at which it was delivered}.

local LOOK = 100  -- most entries that a step visits in each place
local PAGE = 10  -- entries of a consumer that are read at a time; often the first one can be taken
local MOST_NAMES = 20  -- most dead consumers that a step visits
local MOST_MARKS = 100  -- most marks of cancelled messages that are returned; commands.py says the same
-- Deliveries of one read lie less apart than this. Servers up to 7.0 read the clock for each
-- message of a read (100 MB of them took 63 ms), and for each command of a script.
local READ_MS = 250
-- How long a due message on which this consumer has failed is left to others at most.
local LONGEST_PREFERENCE = 1000
-- The same for a message at which a worker broke, while this process has finished none.
local FAULT_PREFERENCE = 60000

local stream, history, due, presence = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holders, outage, cancelled, progress = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local group, consumer, identity = ARGV[1], ARGV[2], ARGV[3]
local lease, grace = tonumber(ARGV[4]), tonumber(ARGV[5])
local own_idle, since = tonumber(ARGV[6]), tonumber(ARGV[7])
local predecessor_read_singly, predecessor_is_foreign = ARGV[8] == '1', ARGV[8] == 'foreign'
local max_crashes, startable, most = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local due_rank, own_from = tonumber(ARGV[12]), ARGV[13]
local dead_rank, dead_from, foreign_from = tonumber(ARGV[14]), ARGV[15], ARGV[16]
local due_comes_last, foreign_idle = ARGV[17] == '1', tonumber(ARGV[18])
local foreign, apart, in_flight = {}, {}, {}
local has_worked = ARGV[20] == '1'
local next_argument = 22
for _ = 1, ARGV[21] do
  foreign[#foreign + 1] = ARGV[next_argument]
  next_argument = next_argument + 1
end
for _ = 1, ARGV[next_argument] do
  apart[#apart + 1] =
    {consumer = ARGV[next_argument + 1], delivered = tonumber(ARGV[next_argument + 2])}
  next_argument = next_argument + 2
end
for i = next_argument + 1, #ARGV do in_flight[ARGV[i]] = true end

local now = now_ms()
local current = redis.call('HGET', holders, consumer)
if not current or not is_of(current, identity) then
  if current and lease_end_of(presence, consumer) > now then
    return redis.error_reply('HELD ' .. current)
  end
  -- The next heartbeat takes the name back. Until then nothing is taken under a name that is not on
  -- record: a crash with it would look like another program's.
  return {{}, 0, -1, due_rank, own_from, dead_rank, dead_from, foreign_from, 0, 0, {}, {}, false}
end

local taken, gone, more, alone, lost = {}, 0, false, false, {}
local has_history = redis.call('HLEN', history) > 0

local function notes_of(id) return has_history and redis.call('HGET', history, id) end

local function failures_of(id) return failures_in(notes_of(id)) end

local function deliveries_on_record(id)
  return deliveries_in(notes_of(id))
end

local function is_startable(crashes)
  return crashes <= startable or crashes >= max_crashes
end

local function is_full() return alone or #taken >= most end

local function end_without_body(id)
  redis.call('XACK', stream, group, id)
  forget(history, due, id)
  gone = gone + 1
end

-- Take one message at this count of deliveries. If it was left behind, `from` is the consumer that
-- left it, and `delivered` the ms at which it was delivered there.
local function take(id, deliveries, from, delivered)
  local entry = redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', deliveries)[1]
  redis.call('ZREM', due, id)
  if not entry then return end_without_body(id) end
  taken[#taken + 1] = {id, entry[2], deliveries, notes_of(id), from, delivered}
end

-- Take parked messages without a crash in one command, which also counts the delivery.
local function take_due(ids, deliveries, notes)
  if #ids == 0 then return end
  local entry_of = {}
  for _, entry in ipairs(redis.call('XCLAIM', stream, group, consumer, 0, unpack(ids))) do
    if entry then entry_of[entry[1]] = entry end
  end
  redis.call('ZREM', due, unpack(ids))
  for i, id in ipairs(ids) do
    local entry = entry_of[id]
    if entry then
      taken[#taken + 1] = {id, entry[2], deliveries[i], notes[i]}
    else
      end_without_body(id)
    end
  end
end

-- --- due ---------------------------------------------------------------------------------------

local next_due = -1

-- A due time that is later than it can be was set before the clock was set back. The heartbeats look
-- for all of them; here the first one is looked at, in case that no process has seen it happen.
local function believable_due_time(id, at)
  local owner, deliveries = pending_entry(stream, group, id)
  local latest = owner == PARKED
    and latest_due_time(redis.call('HGET', history, id), deliveries, now)
  if not latest or tonumber(at) <= latest then return at end
  redis.call('ZADD', due, latest, id)
  more = true
  return latest
end

local any_lives  -- looked up when it is needed
local function others_live()
  if any_lives == nil then
    local living = redis.call('ZRANGEBYSCORE', presence, '(' .. now, '+inf', 'LIMIT', 0, 2)
    any_lives = #living > 1 or (#living == 1 and living[1] ~= consumer)
  end
  return any_lives
end

-- Until when a due message is left to others, if any live. If it has failed on this consumer, for as
-- long again as it has waited, up to a limit: perhaps it is this worker that is at fault. A message at
-- which a worker broke is for one that has worked: if that breaks, too, it is the message.
local function left_to_others_until(notes, at, crashes)
  if not notes or not others_live() then return at end
  if faults_in(notes) > 0 and crashes <= 0 and not has_worked then return at + FAULT_PREFERENCE end
  local last = notes:match('[^\n]*\n$')
  if not last or not last:find('"worker": "' .. consumer .. '"', 1, true) then return at end
  local delay = tonumber(last:match('"delay_ms": (%d+)}\n$')) or 0
  return at + math.min(delay, LONGEST_PREFERENCE)
end

local function look_at_due()
  local ids, counts, notes = {}, {}, {}
  local groups  -- read when it is needed
  local postponed = math.huge  -- ms until the first of the messages that are left to others
  local hints = redis.call('ZRANGE', due, due_rank, due_rank, 'WITHSCORES')
  if hints[1] and tonumber(hints[2]) > now then hints[2] = believable_due_time(unpack(hints)) end
  if hints[1] and tonumber(hints[2]) <= now then
    hints = redis.call('ZRANGE', due, due_rank, due_rank + LOOK - 1, 'WITHSCORES')
  end
  local ended = #hints < 2 * LOOK
  for i = 1, #hints, 2 do
    local id, at = hints[i], tonumber(hints[i + 1])
    if at > now then
      next_due, ended = math.ceil(at - now), true
      break
    end
    if #taken + #ids >= most then
      ended = false
      break
    end
    local owner, deliveries = pending_entry(stream, group, id)
    if not owner then  -- it has ended, or others have deleted the consumer ~parked
      groups, deliveries = groups or groups_of(stream), failures_of(id)
      if restore(stream, group, groups, id, PARKED, deliveries) then owner = PARKED end
    end
    if not owner then
      forget(history, due, id)
    elseif owner ~= PARKED then
      redis.call('ZREM', due, id)
    elseif in_flight[id] then
      due_rank = due_rank + 1  -- parked by this process, which has not received the reply yet
    else
      local noted = notes_of(id)
      local crashes = deliveries - failures_in(noted)
      local from = left_to_others_until(noted, at, crashes)
      if from > now then
        due_rank = due_rank + 1
        postponed = math.min(postponed, math.ceil(from - now))
      elseif crashes <= 0 then
        local n = #ids + 1
        ids[n], counts[n], notes[n] = id, deliveries + 1, noted
      elseif not is_startable(crashes) then
        due_rank = due_rank + 1
      elseif #taken + #ids > 0 then
        ended = false  -- the next step takes it alone
        break
      else
        take(id, deliveries + 1)
        alone = #taken > 0
        if alone then break end
      end
    end
  end
  take_due(ids, counts, notes)
  if postponed < math.huge then
    next_due = next_due < 0 and postponed or math.min(next_due, postponed)
  end
  if alone or not ended then
    more = true
  else
    due_rank = 0
  end
end

-- --- what consumers left behind -----------------------------------------------------------------

-- Whether a consumer is known to have read one message at a time. If its identity does not say so,
-- or is lost, it may have read more.
local function read_singly(name)
  if name == consumer then return predecessor_read_singly end
  local claimed_by = redis.call('HGET', holders, name)
  if claimed_by and claimed_by:sub(-#ONE_BY_ONE) == ONE_BY_ONE then return true end
  local understood, facts = pcall(cjson.decode, claimed_by)
  return understood and type(facts) == 'table' and facts['prefetch'] == 1
end

-- Whether a message must wait because one of the same read of that consumer runs again. A read that
-- came just before or after is taken for the same one. What counts is how the dead consumer read.
local function must_wait_for_its_read(name, delivered)
  for _, read in ipairs(apart) do
    if read.consumer == name and math.abs(read.delivered - delivered) <= READ_MS then
      return not read_singly(name)
    end
  end
  return false
end

-- Take a message that was left behind if it may start: a suspect alone, others together.
local function take_left_behind(id, deliveries, name, delivered)
  local crashes = math.max(0, deliveries - 1 - failures_of(id))
  if not is_startable(crashes) or must_wait_for_its_read(name, delivered) then return end
  if crashes > 0 and #taken > 0 then
    more = true  -- the next step takes it alone
    return
  end
  take(id, deliveries, name, delivered)
  alone = crashes > 0 and #taken > 0
end

local function take_again(id)
  local row = redis.call('XPENDING', stream, group, id, id, 1, consumer)[1]
  local seen_at = now_ms()
  if row and not in_flight[id] and row[3] >= own_idle and row[3] <= age_at(seen_at, since) then
    take_left_behind(id, row[4], consumer, seen_at - row[3])
    alone = #taken > 0
  end
end

local function look_at_own()
  local idle = math.min(own_idle, age_at(now, since) + 1)
  local rows = redis.call('XPENDING', stream, group, 'IDLE', idle, own_from, '+', LOOK, consumer)
  local seen_at = now_ms()  -- read now, as the script may have taken long until here
  local age, looked_at = age_at(seen_at, since), 0
  for _, row in ipairs(rows) do
    if is_full() then break end
    looked_at, own_from = looked_at + 1, '(' .. row[1]
    local id, idle_ms, deliveries = row[1], row[3], row[4]
    local was_a_predecessors = idle_ms > age
    if not in_flight[id] and was_a_predecessors then
      local before = predecessor_is_foreign and deliveries_on_record(id) or deliveries
      take_left_behind(id, before + 1, consumer, seen_at - idle_ms)
    elseif not in_flight[id] and idle_ms >= own_idle then
      lost[#lost + 1] = {id, deliveries, notes_of(id), seen_at - idle_ms}
      more = true
    end
  end
  if looked_at == #rows and #rows < LOOK then
    own_from = '-'
  else
    more = true
  end
end

-- Visit messages of a consumer from an id on, `room` of them at most, and take what has been idle
-- for so long. Returns how many it has visited, and where to go on, or nil if these were all.
local function look_at(name, from, idle, room, is_foreign)
  local looked_at = 0
  while looked_at < room do
    local page = math.min(PAGE, room - looked_at)
    local rows = redis.call('XPENDING', stream, group, from, '+', page, name)
    local seen_at = now_ms()
    for _, row in ipairs(rows) do
      looked_at, from = looked_at + 1, '(' .. row[1]
      if row[3] >= idle and not in_flight[row[1]] then
        local before = is_foreign and deliveries_on_record(row[1]) or row[4]
        take_left_behind(row[1], before + 1, name, seen_at - row[3])
        if is_full() then return looked_at, from end
      end
    end
    if #rows < page then return looked_at, nil end
  end
  return looked_at, from
end

-- Dead consumers take turns: after a message of one of them was taken, the next step goes on with
-- the next consumer, and after the last one with the first. The presence is in the order in which
-- leases end, so dead consumers come before living ones.
local function look_at_dead()
  local looked_at, names_seen = 0, 0
  local is_second_round = dead_rank == 0 and dead_from == '-'
  while true do
    local last_rank = dead_rank + MOST_NAMES - 1
    local names = redis.call('ZRANGE', presence, dead_rank, last_rank, 'WITHSCORES')
    local was_last = #names < 2 * MOST_NAMES
    for i = 1, #names, 2 do
      if tonumber(names[i + 1]) > now then
        was_last = true
        break
      end
      local rows, go_on_from = 0, nil
      if names[i] ~= consumer then
        rows, go_on_from = look_at(names[i], dead_from, 0, LOOK - looked_at, false)
        looked_at = looked_at + rows
      end
      if go_on_from and not is_full() then
        dead_from, more = go_on_from, true
        return
      end
      dead_rank, dead_from, names_seen = dead_rank + 1, '-', names_seen + 1
      if is_full() or looked_at >= LOOK or names_seen >= MOST_NAMES then
        more = true
        return
      end
    end
    if not was_last then
      more = true
      return
    end
    dead_rank, dead_from = 0, '-'
    if is_second_round then return end
    is_second_round = true
  end
end

local function look_at_foreign()
  local looked_at = 0
  for n, name in ipairs(foreign) do
    local go_on_from
    if not redis.call('ZSCORE', presence, name) then
      local rows
      local from = n == 1 and foreign_from or '-'
      rows, go_on_from = look_at(name, from, foreign_idle, LOOK - looked_at, true)
      looked_at = looked_at + rows
    end
    if go_on_from then
      foreign_from, more = go_on_from, true
      return n - 1
    end
    foreign_from = '-'
    if is_full() or looked_at >= LOOK then
      more = true
      return n
    end
  end
  return #foreign
end

local names_done = 0
local function look_at_what_was_left()
  if own_from ~= '' and not is_full() then look_at_own() end
  if dead_rank < 0 then return end
  if is_full() then
    more = true
    return
  end
  forgive_outage(presence, outage, now, lease, grace)
  if not is_forgiven(outage, now) then look_at_dead() end
  if not is_full() then names_done = look_at_foreign() end
end

write_even_when_full(presence)
for _, name in ipairs(foreign) do restore_lease(presence, holders, name, now + lease) end
if ARGV[19] ~= '' then take_again(ARGV[19]) end
if alone then
  more = true
elseif due_comes_last then
  look_at_what_was_left()
  if not is_full() then look_at_due() end
else
  look_at_due()
  look_at_what_was_left()
end
local resumable = {}
if #taken > 0 and redis.call('HLEN', progress) > 0 then
  for _, message in ipairs(taken) do
    local stored = redis.call('HGET', progress, message[1])
    if stored then
      resumable[#resumable + 1] = message[1]
      resumable[#resumable + 1] = stored
    end
  end
end
local marks = #taken > 0 and redis.pcall('ZRANGE', cancelled, 0, MOST_MARKS - 1)
if marks and marks.err then marks = false end
return {taken, gone, next_due, due_rank, own_from, dead_rank, dead_from, foreign_from, names_done,
  more and 1 or 0, lost, resumable, marks}
