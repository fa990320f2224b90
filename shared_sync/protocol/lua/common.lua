-- Put in front of every script when it is loaded. The server's clock is the only clock.

local PARKED = '~parked'

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A full server refuses commands that need memory, except in a script that has written before. What
-- ends messages frees memory, and a worker must be able to send heartbeats: call this first there.
local function write_even_when_full(zset)
  redis.call('ZREM', zset, '')
end

-- If no worker has sent a heartbeat for a third of a lease, Redis or the network was away, and not
-- all workers died at once. Nobody is then taken for dead for a grace, in which the living report.
local function forgive_outage(presence, outage, now, lease, grace)
  local newest = redis.call('ZRANGE', presence, -1, -1, 'WITHSCORES')[2]
  if not newest or newest - now > lease * 2 / 3 then return end
  if #redis.call('ZRANGEBYSCORE', presence, '-inf', now, 'LIMIT', 0, 1) > 0 then
    redis.call('ZADD', outage, now + grace, 'forgiven until')
  end
end

-- Whether an outage is being forgiven. What is past is removed.
local function is_forgiven(outage, now)
  local until_ms = tonumber(redis.call('ZSCORE', outage, 'forgiven until') or 0)
  if until_ms > now then return true end
  if until_ms > 0 then redis.call('ZREM', outage, 'forgiven until') end
  return false
end

-- Owner and delivery count of a pending entry, or nil if it is not pending.
local function pending_entry(stream, group, id)
  local row = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if row then return row[2], row[4] end
  return nil
end

-- A consumer's name belongs to the process that has claimed it. Another process of that name, such
-- as one that was frozen past its lease, owns nothing any more. Returns who has it, or nil.
local function claimed_by_another(holders, consumer, identity)
  local current = redis.call('HGET', holders, consumer)
  if current and current ~= identity then return current end
  return nil
end

-- When a consumer's lease ends or ended, in ms; 0 without presence.
local function lease_end_of(presence, name)
  return tonumber(redis.call('ZSCORE', presence, name) or 0)
end

-- Remove a consumer with nothing pending. Returns the refusal if the right to do so is missing.
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

-- Publish to a channel, where perhaps nobody listens. Returns the refusal of the server, or ''.
local function publish(channel, payload)
  local heard = redis.pcall('PUBLISH', channel, payload)
  return type(heard) == 'table' and heard.err or ''
end

-- The names and values of a reply of XINFO as a table.
local function facts_of(info)
  local facts = {}
  for i = 1, #info, 2 do facts[info[i]] = info[i + 1] end
  return facts
end

local function groups_of(stream)
  local groups = {}
  for n, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do groups[n] = facts_of(info) end
  return groups
end

-- Delete finished entries, except those that a group has still to read or to finish. This group has
-- finished all of them if `all_ended`; otherwise some may have to be read again after it was lost.
local function delete_finished(stream, group, ids, all_ended)
  local groups = groups_of(stream)
  if #groups == 1 and all_ended then
    redis.call('XDEL', stream, unpack(ids))
    return
  end
  -- Redis 8.2 deletes by itself what every group has read and acknowledged.
  if not redis.pcall('XDELEX', stream, 'ACKED', 'IDS', #ids, unpack(ids)).err then return end
  local unneeded = {}
  for _, id in ipairs(ids) do
    local needed = false
    for _, other in ipairs(groups) do
      if not (all_ended and other['name'] == group) then
        needed = id_is_after(id, other['last-delivered-id'])
          or pending_entry(stream, other['name'], id) ~= nil
        if needed then break end
      end
    end
    if not needed then unneeded[#unneeded + 1] = id end
  end
  if #unneeded > 0 then redis.call('XDEL', stream, unpack(unneeded)) end
end

-- Forget what was noted about a message that is not pending any more.
local function forget(history, due, id)
  redis.call('HDEL', history, id)
  redis.call('ZREM', due, id)
end

-- Park an entry so that others may take it at once, and take back its delivery, which is not to be
-- charged. Returns false if its body is gone; such an entry has ended.
local function hand_back(stream, due, group, id, deliveries, now)
  local claimed = redis.call('XCLAIM', stream, group, PARKED, 0, id,
    'RETRYCOUNT', math.max(deliveries - 1, 0), 'JUSTID')
  if not claimed[1] then return false end
  redis.call('ZADD', due, now, id)
  return true
end
