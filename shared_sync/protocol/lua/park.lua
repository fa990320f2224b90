-- Park messages until their next attempt, and record the failures of those that have failed. One that
-- has crashed is parked without a record: a delivery that is not on record counts as a crash.
-- KEYS: stream, history, due, holders, cancelled
-- ARGV: group, consumer, identity, then for each message: id, failure (one JSON line, or '' after
--       a crash), delay in ms, the delivery that failed, another id by which it may be cancelled or ''
-- Returns {outcomes, '', ''}: for each message 1 if it is parked, 0 if it is no longer this
-- consumer's, -1 if its entry is gone. A cancelled message is due at once.
--
-- A call can arrive late, on a connection that was given up: after it was repeated, and after this
-- very consumer has taken the message again. The delivery then shows that the call is about an
-- earlier attempt.

local stream, history, due, holders, cancelled = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, consumer, identity = ARGV[1], ARGV[2], ARGV[3]
local now, outcomes = now_ms(), {}
local name_is_lost = claimed_by_another(holders, consumer, identity) ~= nil

local marks = redis.pcall('ZCARD', cancelled)
local any_is_cancelled = type(marks) == 'number' and marks > 0
write_even_when_full(due)

local function is_cancelled(id)
  return any_is_cancelled and redis.call('ZSCORE', cancelled, id) ~= false
end

local function park(id, failure, delay, failed, known_as)
  local owner, deliveries = pending_entry(stream, group, id)
  -- If so many failures are recorded, this one is among them. After a crash there are fewer.
  if not owner and not name_is_lost and failures_in(redis.call('HGET', history, id)) < failed
    and restore(stream, group, groups_of(stream), id, consumer, failed) then
    owner, deliveries = consumer, failed
  end
  if not owner then forget(history, due, id) end
  if owner ~= consumer or deliveries ~= failed or name_is_lost then return 0 end
  -- The claim comes last: if anything before it is refused, the message is still this consumer's, and
  -- the call is repeated. A message that were parked without a record would be charged with a crash.
  -- Recorded once, also if the call is repeated after the group was lost and created again.
  local failures = redis.call('HGET', history, id) or ''
  if failure ~= '' and failures:sub(-#failure - 1) ~= failure .. '\n' then
    redis.call('HSET', history, id, failures .. failure .. '\n')
  end
  if is_cancelled(id) or is_cancelled(known_as) then delay = 0 end
  redis.call('ZADD', due, now + delay, id)
  local claimed = redis.call('XCLAIM', stream, group, PARKED, 0, id, 'JUSTID')
  if claimed[1] then return 1 end
  forget(history, due, id)
  return -1
end

for i = 4, #ARGV, 5 do
  outcomes[#outcomes + 1] =
    park(ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), ARGV[i + 4])
end
return {outcomes, '', ''}
