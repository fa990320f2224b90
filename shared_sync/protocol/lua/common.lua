-- Put in front of every script when it is loaded. The server's clock is the only clock.

local PARKED = '~parked'

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end


-- A full server refuses what needs memory, except in a script that has written before. What ends
-- messages frees memory, and a worker must be able to say that it lives: call this first there.
local function write_even_when_full(zset)
  redis.call('ZREM', zset, '')
end

-- When nobody has beaten for a third of a lease, then Redis or the network was away, and not all
-- dead at once: leases that ended meanwhile last for a grace, in which the living can beat.
local function forgive_outage(presence, now, lease, grace)
  local newest = redis.call('ZRANGE', presence, -1, -1, 'WITHSCORES')[2]
  if not newest or newest - now > lease * 2 / 3 then return end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', presence, '-inf', now)) do
    redis.call('ZADD', presence, now + grace, name)
  end
end

-- Owner and delivery count of a pending entry, or nil if it is not pending.
local function pending_entry(stream, group, id)
  local row = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if row then return row[2], row[4] end
  return nil
end

-- A consumer's name belongs to the process that holds it. Another one of that name, such as one
-- that was frozen past its lease, owns nothing any more. The other holder, or nil.
local function held_by_another(holders, consumer, holder)
  local current = redis.call('HGET', holders, consumer)
  if current and current ~= holder then return current end
  return nil
end

-- When a consumer's lease ends or ended, in ms; 0 without presence.
local function lease_end_of(presence, name)
  return tonumber(redis.call('ZSCORE', presence, name) or 0)
end

-- Remove a consumer with nothing pending; the text of the refusal where the right is missing.
local function remove_consumer(stream, group, name)
  local removed = redis.pcall('XGROUP', 'DELCONSUMER', stream, group, name)
  return type(removed) == 'table' and removed.err or nil
end

local function compare_numerals(a, b)
  if #a ~= #b then return #a < #b and -1 or 1 end
  if a == b then return 0 end
  return a < b and -1 or 1
end

-- Ids are compared as text: their numbers may be larger than Lua's doubles are exact.
local function id_is_after(id, other)
  local ms, seq = id:match('^(%d+)-(%d+)$')
  local other_ms, other_seq = other:match('^(%d+)-(%d+)$')
  local order = compare_numerals(ms, other_ms)
  if order == 0 then order = compare_numerals(seq, other_seq) end
  return order > 0
end

-- Publish what may be heard by nobody; the text of the refusal where the server does not allow it.
local function publish(channel, payload)
  local heard = redis.pcall('PUBLISH', channel, payload)
  return type(heard) == 'table' and heard.err or ''
end

-- Acknowledge a message: 1 if it was pending; and whether its entry has been seen to as well, which
-- one command does from Redis 8.2 on.
local function acknowledge(stream, group, id, has_xackdel)
  if has_xackdel then
    local done = redis.pcall('XACKDEL', stream, group, 'ACKED', 'IDS', 1, id)
    if not done.err then return done[1] > 0 and 1 or 0, true end
  end
  return redis.call('XACK', stream, group, id), false
end

-- Delete finished entries, except those that another group has still to read or to finish.
local function delete_finished(stream, group, ids)
  local groups = redis.call('XINFO', 'GROUPS', stream)
  if #groups == 1 then
    redis.call('XDEL', stream, unpack(ids))
    return
  end
  local others = {}
  for _, info in ipairs(groups) do
    local fact = {}
    for i = 1, #info, 2 do fact[info[i]] = info[i + 1] end
    if fact['name'] ~= group then others[#others + 1] = fact end
  end
  for _, id in ipairs(ids) do
    local needed = false
    for _, other in ipairs(others) do
      needed = id_is_after(id, other['last-delivered-id'])
        or pending_entry(stream, other['name'], id) ~= nil
      if needed then break end
    end
    if not needed then redis.call('XDEL', stream, id) end
  end
end

-- Forget what was noted about a message that is not pending any more.
local function forget(history, due, id)
  redis.call('HDEL', history, id)
  redis.call('ZREM', due, id)
end

-- Park one entry for immediate pick-up and take back the delivery that is not to be charged.
-- False if its body is gone; such an entry is ended.
local function hand_back(stream, due, group, id, deliveries, now)
  local claimed = redis.call('XCLAIM', stream, group, PARKED, 0, id,
    'RETRYCOUNT', math.max(deliveries - 1, 0), 'JUSTID')
  if not claimed[1] then return false end
  redis.call('ZADD', due, now, id)
  return true
end
