-- Renew a consumer's lease, tidy up in a bounded step, and report the sizes of the queue.
-- KEYS: stream, due, presence, dead, holders, outage, history, cancelled, scheduled, progress, paused
-- ARGV:
--   1 to 5  group, consumer, identity, lease ms, grace ms
--   6       rank in the presence at which to go on to search for ended consumers
--   7       parked id at which to go on restoring due times that are lost or too late, or '' not to
--   8       '1' if the process reads one message at a time for now, or ''
--   9       '1' if this consumer takes no messages because the group is paused, or ''
-- Returns {entries in the stream or -1 if unknown, dead letters or -1, due times, '' or what was
-- refused, rank at which to go on, parked id at which to go on or '', the summary of XPENDING or
-- nil if the group has many consumers, now, marks of cancelled messages, ms until the next scheduled
-- job is to be published or -1, how many messages have progress stored, scheduled jobs, the pause of
-- the group as JSON or ''}. Fails with HELD if another process has claimed the name.

-- Most consumers and most due times that one call visits, so that none takes long.
local STEP = 100
local MANY_CONSUMERS = 100

local stream, due, presence, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holders, outage, history = KEYS[5], KEYS[6], KEYS[7]
local cancelled, scheduled, progress, paused = KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local group, consumer, identity = ARGV[1], ARGV[2], ARGV[3]
local mark = ARGV[8] == '1' and ONE_BY_ONE or ''
local lease, grace = tonumber(ARGV[4]), tonumber(ARGV[5])
local rank, restore_from = tonumber(ARGV[6]), ARGV[7]
local now, refusal = now_ms(), nil

local current = redis.call('HGET', holders, consumer)
if current and not is_of(current, identity) and lease_end_of(presence, consumer) > now then
  return redis.error_reply('HELD ' .. current)
end

write_even_when_full(presence)
forgive_outage(presence, outage, now, lease, grace)
local forgiven = is_forgiven(outage, now)
renew_lease(presence, outage, consumer, now, lease)
if not (current and is_of(current, identity)) then
  redis.call('HSET', holders, consumer, identity .. mark)
end

-- Whether the group is paused. A consumer that takes no messages confirms it.
local pause = redis.pcall('HGET', paused, 'pause')
if type(pause) ~= 'string' then
  pause = ''
elseif ARGV[9] == '1' then
  redis.pcall('HSET', paused, 'consumer:' .. consumer, '1')
end

local function has_pending(name)
  return #redis.call('XPENDING', stream, group, '-', '+', 1, name) > 0
end

-- Remove consumers whose lease has ended and that have nothing pending. The presence is in the
-- order in which leases end. Consumers that stay keep their ranks; the next call goes on behind.
local last_visited
local names = redis.call('ZRANGE', presence, rank, rank + STEP - 1, 'WITHSCORES')
for i = 1, forgiven and 0 or #names, 2 do
  local name, lease_end = names[i], tonumber(names[i + 1])
  if lease_end > now then break end
  last_visited = i
  if not has_pending(name) then
    refusal = remove_consumer(stream, group, name) or refusal
    redis.call('ZREM', presence, name)
    redis.call('HDEL', holders, name)
    if pause ~= '' then redis.call('HDEL', paused, 'consumer:' .. name) end
  else
    rank = rank + 1
  end
end
if last_visited ~= 2 * STEP - 1 then rank = 0 end

-- Remove identities of consumers without presence that have nothing pending, in steps too. With a
-- message pending it is the presence that was lost.
if redis.call('HLEN', holders) > redis.call('ZCARD', presence) then
  local names = redis.call('HKEYS', holders)
  for i = 1, math.min(#names, STEP) do
    local name = names[(now + i) % #names + 1]  -- so every name gets its turn
    if not redis.call('ZSCORE', presence, name) then
      if has_pending(name) then
        restore_lease(presence, holders, name, now + lease)
      else
        redis.call('HDEL', holders, name)
      end
    end
  end
end

-- No lease ends later than its owner could have said. Those that would are the last in the presence.
local too_late =
  redis.call('ZRANGEBYSCORE', presence, '(' .. now + lease + grace, '+inf', 'LIMIT', 0, STEP)
for _, name in ipairs(too_late) do believable_lease_end(presence, holders, name, now, grace) end

-- Parked messages whose due time was lost become due now, and none is due later than it can be.
if restore_from ~= '' then
  local rows = redis.call('XPENDING', stream, group, restore_from, '+', STEP, PARKED)
  for _, row in ipairs(rows) do
    local due_at = tonumber(redis.call('ZSCORE', due, row[1]) or 0)
    if due_at == 0 then
      redis.call('ZADD', due, now, row[1])
    elseif due_at > now then
      local latest = latest_due_time(redis.call('HGET', history, row[1]), row[4], now)
      if latest and due_at > latest then redis.call('ZADD', due, latest, row[1]) end
    end
  end
  restore_from = #rows == STEP and '(' .. rows[STEP][1] or ''
end

-- How many consumers a group has; 0 if it does not exist.
local function consumers_of(groups, name)
  for _, info in ipairs(groups) do
    local facts = facts_of(info)
    if facts['name'] == name then return facts['consumers'] end
  end
  return 0
end

local function length_of(key)
  local length = redis.pcall('XLEN', key)
  if type(length) == 'number' then return length end
  refusal = length.err
  return -1
end

local entries, letters, due_times = length_of(stream), length_of(dead), redis.call('ZCARD', due)
local summary = false
local groups = redis.pcall('XINFO', 'GROUPS', stream)
if groups.err or consumers_of(groups, group) <= MANY_CONSUMERS then
  summary = redis.call('XPENDING', stream, group)
end

-- How many elements a key has: 0 if it may not be read, or is something else.
local function count_of(command, key)
  local count = redis.pcall(command, key)
  return type(count) == 'number' and count or 0
end

local next_job = redis.pcall('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
local wait = next_job[2] and math.max(0, tonumber(next_job[2]) - now) or -1
return {entries, letters, due_times, refusal or '', rank, restore_from, summary, now,
  count_of('ZCARD', cancelled), wait, count_of('HLEN', progress), count_of('ZCARD', scheduled), pause}
