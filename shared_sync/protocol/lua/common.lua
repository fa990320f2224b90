-- Put in front of every script when it is loaded. The server's clock is the only clock.

local PARKED = '~parked'
local NO_ID = '0-0'  -- an id that no entry has

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A full server refuses commands that need memory, except in a script that has written before.
-- Heartbeats, and scripts that end messages and so free memory, call this before anything else.
local function write_even_when_full(zset)
  redis.call('ZREM', zset, '')
end

-- Whether the server is full. To be asked before the script writes anything.
local function is_server_full(zset)
  local refused = redis.pcall('ZADD', zset, 'XX', 0, '')  -- changes nothing
  return type(refused) == 'table' and refused.err:find('OOM', 1, true) ~= nil
end

-- If no worker has sent a heartbeat for a third of a lease, Redis or the network was away, or the
-- clock was put forward; that all workers died at once is less likely. For a grace nobody is then
-- taken for dead, so that living workers can send a heartbeat first. Leases that would end within
-- the grace need it too.
local function forgive_outage(presence, outage, now, lease, grace)
  local newest = redis.call('ZSCORE', outage, 'last heartbeat')
  if not newest then
    local newest_end = redis.call('ZRANGE', presence, -1, -1, 'WITHSCORES')[2]
    if not newest_end then return end
    newest = newest_end - lease
  end
  if now - newest < lease / 3 then return end
  if #redis.call('ZRANGEBYSCORE', presence, '-inf', now + grace, 'LIMIT', 0, 1) > 0 then
    redis.call('ZADD', outage, now + grace, 'forgiven until')
  end
end

-- Begin a consumer's next lease, after forgive_outage().
local function renew_lease(presence, outage, consumer, now, lease)
  redis.call('ZADD', presence, now + lease, consumer)
  redis.call('ZADD', outage, now, 'last heartbeat')
end

-- Whether the grace after an outage lasts. Removes the key of an outage that is over.
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

-- What stands behind an identity while its process has read one message at a time.
local ONE_BY_ONE = ' one by one'

local function is_of(current, identity)
  return current == identity or current == identity .. ONE_BY_ONE
end

-- A consumer's name belongs to the process that has claimed it. Another process of that name, such
-- as one that was frozen past its lease, owns nothing any more. Returns the identity that has the
-- name, or nil.
local function claimed_by_another(holders, consumer, identity)
  local current = redis.call('HGET', holders, consumer)
  if current and not is_of(current, identity) then return current end
  return nil
end

-- When a consumer's lease ends or ended, in ms; 0 without presence.
local function lease_end_of(presence, name)
  return tonumber(redis.call('ZSCORE', presence, name) or 0)
end

-- A lease that ends later than its owner could have said was begun before the clock was set back,
-- or on a server whose clock is ahead. It ends one lease from now instead. An owner that does not
-- state its lease, as of earlier releases, is believed. Returns when the lease ends.
local function believable_lease_end(presence, holders, name, now, grace)
  local lease_end = lease_end_of(presence, name)
  local claimed_by = lease_end > now and redis.call('HGET', holders, name)
  local stated = claimed_by and tonumber(claimed_by:match('"lease_ms": (%d+)'))
  if stated and stated > 0 and lease_end > now + stated + grace then
    lease_end = now + stated
    redis.call('ZADD', presence, lease_end, name)
  end
  return lease_end
end

-- A claim without a lease has lost it with the presence. Its process has a lease's time to report
-- again; then it is dead, and its messages are taken as those of any dead consumer.
local function restore_lease(presence, holders, name, lease_end)
  if not redis.call('ZSCORE', presence, name) and redis.call('HGET', holders, name) then
    redis.call('ZADD', presence, lease_end, name)
  end
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

-- Publish to a channel, which may have no subscribers. Returns the refusal of the server, or ''.
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

local function id_after(id)
  local ms, seq = id:match('^(%d+)-(%d+)$')
  local digits, carry = {}, 1
  for i = #seq, 1, -1 do
    local digit = seq:byte(i) - 48 + carry
    carry = digit == 10 and 1 or 0
    digits[i] = digit % 10
  end
  return ms .. '-' .. (carry == 1 and '1' or '') .. table.concat(digits)
end

-- The first id that a group may still need, and whether it is pending there: the group has finished
-- every entry below it. A group that XGROUP SETID has set back may have entries pending behind those
-- that it is going to read again.
local function needed_from(stream, info)
  local first = redis.call('XPENDING', stream, info['name'], '-', '+', 1)[1]
  if first and not id_is_after(first[1], info['last-delivered-id']) then return first[1], true end
  return id_after(info['last-delivered-id']), false
end

-- Scripts that end messages call this before they change anything: it fails if one of their commands
-- would be refused, because a right is missing or a key has another type. A script that was broken
-- off midway would leave finished entries in the stream, or publish a result again at each try.
-- Returns the groups of the stream, none if it is empty, and whether any failures are recorded.
local function prepare_to_end(stream, group, history, due)
  redis.call('XACK', stream, group, NO_ID)
  local has_history = redis.call('HLEN', history) > 0
  -- Whether this user may delete at all. In the stream the command would go through what was deleted
  -- there before, which takes as long as to delete ten entries, so a key is asked that is not there.
  redis.call('XDEL', has_history and stream or history, NO_ID)
  if has_history then
    redis.call('HDEL', history, '')
    redis.call('ZREM', due, '')
  end
  local groups = redis.call('XLEN', stream) > 0 and groups_of(stream) or {}
  if #groups > 1 then pending_entry(stream, groups[1]['name'], NO_ID) end
  return groups, has_history
end

-- A part of a refusal that will be the same at each try.
local NEVER_TAKEN = 'which never takes an entry'

-- Whether a server that has refused an entry will refuse it at each try. Other refusals can be
-- mended, such as that the server is full. `is_final()` of `replies.py` says the same.
local function is_final_refusal(text)
  return text:find('exhausted the last possible ID', 1, true) ~= nil
    or text:find('too large to be stored', 1, true) ~= nil
end

-- For each time that a worker broke at a message, this stands in front of its failures.
local FAULT = '\t'

-- How many times that is noted in what `history` has of a message.
local function faults_in(notes)
  return notes and #notes:match('^\t*') or 0
end

-- How many failures are recorded in what `history` has of a message.
local function failures_in(notes)
  local failures, place = 0, notes and notes:find('\n', 1, true)
  while place do
    failures, place = failures + 1, notes:find('\n', place + 1, true)
  end
  return failures
end

-- How many deliveries by this library the history of a message records. Each failure was one, and
-- the last one has the number of its delivery, which includes those that ended in a crash.
local function deliveries_in(notes)
  if not notes then return 0 end
  local failures, last_attempt = 0, 0
  for line in notes:gmatch('([^\n]*)\n') do
    failures, last_attempt = failures + 1, tonumber(line:match('"attempt": (%d+)') or 0)
  end
  return math.max(failures, last_attempt)
end

-- A process that claimed its name `since` has this age. A message of the name that was idle for
-- longer belonged to an earlier process. Times of delivery are computed from two clocks, so they may
-- be wrong by 2 ms. If the clock has been set back since, nothing is known of that.
local function age_at(now, since) return since <= now and now - since + 2 or math.huge end

-- Put a message back into the pending list from which XGROUP DELCONSUMER has removed it, together
-- with a consumer that was working on it. Only if the stream has no other group: a delivered entry that
-- is there is then unfinished, as finishing deletes it. Where several groups share a stream, this one
-- may have finished an entry that another still needs. Returns whether the message is pending again,
-- for this owner and after so many deliveries.
local function restore(stream, group, groups, id, owner, deliveries)
  if #groups ~= 1 or groups[1]['name'] ~= group
    or id_is_after(id, groups[1]['last-delivered-id']) then
    return false
  end
  -- A claim would create the consumer even for an entry that is gone, so the entry is read first.
  -- Without the right to read it, the claim alone decides.
  local entries = redis.pcall('XRANGE', stream, id, id)
  if not entries.err and #entries == 0 then return false end
  local claimed = redis.call('XCLAIM', stream, group, owner, 0, id,
    'RETRYCOUNT', deliveries, 'FORCE', 'JUSTID')
  return claimed[1] ~= nil
end

-- Delete finished entries, except those that a group has still to read or to finish. `groups` are
-- those of the stream. `all_ended` says that this group has finished all of them; otherwise it may
-- have been lost and created again, and has to read some of them again. Returns how many were
-- deleted.
local function delete_finished(stream, group, ids, all_ended, groups)
  if #groups == 0 then return 0 end
  if #groups == 1 and all_ended then return redis.call('XDEL', stream, unpack(ids)) end
  -- Redis 8.2 deletes by itself what every group has read and acknowledged.
  local replies = redis.pcall('XDELEX', stream, 'ACKED', 'IDS', #ids, unpack(ids))
  if not replies.err then
    local deleted = 0
    for _, reply in ipairs(replies) do
      if reply == 1 then deleted = deleted + 1 end
    end
    return deleted
  end
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
  return #unneeded > 0 and redis.call('XDEL', stream, unpack(unneeded)) or 0
end

-- How long a message waits at most that was parked after a crash. `crashes.py` says the same.
local LONGEST_CRASH_DELAY = 60000

-- How long a message waits at most at which a worker broke. `broken_worker.py` says the same.
local LONGEST_FAULT_DELAY = 600000

-- The latest time at which a parked message can be due, or nil if that is not known: its last
-- failure says for how long it is parked, and one that was handed back unstarted is due at once. If
-- its last delivery is not on record, that has crashed. After a fault it may wait longer.
local function latest_due_time(notes, deliveries, now)
  local delay
  if deliveries == 0 then
    delay = 0
  elseif deliveries > deliveries_in(notes) then
    delay = LONGEST_CRASH_DELAY
  else
    delay = tonumber(notes:match('"delay_ms": (%d+)}\n$'))
  end
  if delay and faults_in(notes) > 0 then delay = math.max(delay, LONGEST_FAULT_DELAY) end
  return delay and now + delay
end

-- Remove the history and the due time of a message that is not pending any more.
local function forget(history, due, id)
  redis.call('HDEL', history, id)
  redis.call('ZREM', due, id)
end

-- Park a message so that any consumer may take it at once, and take back its delivery, so that it
-- is not charged. One that was never started is due since it was published, as its id says, and so
-- comes before retries. Returns false if its entry is gone; such a message has ended.
local function hand_back(stream, due, group, id, deliveries, now)
  local claimed = redis.call('XCLAIM', stream, group, PARKED, 0, id,
    'RETRYCOUNT', math.max(deliveries - 1, 0), 'JUSTID')
  if not claimed[1] then return false end
  local since = deliveries <= 1 and math.min(now, tonumber(id:match('^%d+'))) or now
  redis.call('ZADD', due, since, id)
  return true
end

-- Return the state of a message over all groups of its stream: 'running', 'parked', 'waiting' to be read,
-- or 'ended'. The first of these that is true in any group counts. With `checks_entry` a waiting message
-- is read, and 'ended' is returned if it does not exist.
local function state_of(stream, groups, id, checks_entry)
  local is_parked, is_waiting = false, #groups == 0
  for _, info in ipairs(groups) do
    local owner = pending_entry(stream, info['name'], id)
    if owner and owner ~= PARKED then return 'running' end
    is_parked = is_parked or owner == PARKED
    is_waiting = is_waiting or not owner and id_is_after(id, info['last-delivered-id'])
  end
  if is_parked then return 'parked' end
  if is_waiting and not checks_entry then return 'waiting' end
  if not is_waiting and #groups > 1 then return 'ended' end
  -- If the stream has one group, a delivered entry that still exists is unfinished; see `restore()`.
  local entries = redis.pcall('XRANGE', stream, id, id)
  if entries.err then return is_waiting and 'waiting' or 'ended' end
  if #entries == 0 then return 'ended' end
  return is_waiting and 'waiting' or 'running'
end
