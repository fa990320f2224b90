-- Note a failure and put the message aside until its next attempt.
-- KEYS: stream, history, due, holders
-- ARGV: group, consumer, holder, id, failure (one JSON line), delay in ms, the delivery that failed
-- Returns 1 when parked, 0 when the message is no longer this consumer's, -1 when its body is gone.
--
-- A call can arrive late, on a connection that was given up: after it was repeated, and this very
-- consumer has taken the message again. By the delivery it is known to be about an earlier attempt.

local stream, history, due, holders = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer, holder = ARGV[1], ARGV[2], ARGV[3]
local id, failure, delay, failed = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])

local owner, deliveries = pending_entry(stream, group, id)
if not owner then forget(history, due, id) end
if owner ~= consumer or deliveries ~= failed then return 0 end
if held_by_another(holders, consumer, holder) then return 0 end

local claimed = redis.call('XCLAIM', stream, group, PARKED, 0, id, 'JUSTID')
if not claimed[1] then
  forget(history, due, id)
  return -1
end
-- Noted once, also where the group was lost and the message delivered to us anew before a repetition.
local noted = redis.call('HGET', history, id) or ''
if noted:sub(-#failure - 1) ~= failure .. '\n' then
  redis.call('HSET', history, id, noted .. failure .. '\n')
end
redis.call('ZADD', due, now_ms() + delay, id)
return 1
