-- Return messages at which their worker broke, uncharged, and note that for each.
-- KEYS: stream, history, due, holders
-- ARGV: group, consumer, identity, then for each message: id, delay in ms
-- Returns {outcomes, '', ''}: for each message 1 if it went back, 0 if it is no longer this
-- consumer's, -1 if its entry is gone.
--
-- What is noted is a tab in front of the message's failures. It is no failure, and no worker of an
-- earlier release takes it for one: to JSON it is white space.

local MOST_FAULTS = 20  -- that are noted of a message

local stream, history, due, holders = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer, identity = ARGV[1], ARGV[2], ARGV[3]
local now, outcomes = now_ms(), {}
local name_is_lost = claimed_by_another(holders, consumer, identity) ~= nil

write_even_when_full(due)

local function note_fault(id, delay)
  local owner, deliveries = pending_entry(stream, group, id)
  local notes = redis.call('HGET', history, id) or ''
  if not owner and not name_is_lost then
    deliveries = 1 + failures_in(notes)  -- as if without a crash
    if restore(stream, group, groups_of(stream), id, consumer, deliveries) then
      owner = consumer
    end
  end
  if owner ~= consumer or name_is_lost then return 0 end
  -- The claim comes last, as in park.lua: if it or anything before it is refused, the message is still
  -- this consumer's, and the call is repeated.
  redis.call('ZADD', due, now + delay, id)
  if faults_in(notes) < MOST_FAULTS then redis.call('HSET', history, id, FAULT .. notes) end
  local claimed = redis.call('XCLAIM', stream, group, PARKED, 0, id,
    'RETRYCOUNT', math.max(deliveries - 1, 0), 'JUSTID')
  if claimed[1] then return 1 end
  forget(history, due, id)
  return -1
end

for i = 4, #ARGV, 2 do
  outcomes[#outcomes + 1] = note_fault(ARGV[i], tonumber(ARGV[i + 1]))
end
return {outcomes, '', ''}
