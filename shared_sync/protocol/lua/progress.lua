-- Send progress of a running message, and keep it for the next attempt.
-- KEYS: stream, progress, holders, and the stream that gets the progress, if any
-- ARGV: group, consumer, identity, id, number of the delivery, token of the process, sequence number,
--       the form to keep, '1' if the stream may be created or '', channel or '', payload, then names
--       and values
-- Returns {1 if it was sent, 2 if this or later progress had been sent before, 0 if the message is not
-- this consumer's any more; '' or the refusal of the stream; '' or the refusal of the channel}.
--
-- A call can arrive late or twice, as in park.lua. The kept form begins with the token and the sequence
-- number, so progress never goes backwards. The first write may be refused on a full server: then
-- nothing is sent.

local stream, progress, holders, target = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer, identity, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local delivery, token, sequence = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local kept, may_create, channel, payload = ARGV[8], ARGV[9] == '1', ARGV[10], ARGV[11]

local owner, deliveries = pending_entry(stream, group, id)
if owner ~= consumer or deliveries ~= delivery
  or claimed_by_another(holders, consumer, identity) then
  return {0, '', ''}
end
local before = redis.call('HGET', progress, id)
if before then
  local its_token, its_sequence = before:match('^(%w+) (%d+) ')
  if its_token == token and tonumber(its_sequence) >= sequence then return {2, '', ''} end
end
redis.call('HSET', progress, id, token .. ' ' .. sequence .. ' ' .. kept)

local refusal, unpublished = '', ''
if target then
  local added
  if may_create then
    added = redis.pcall('XADD', target, '*', unpack(ARGV, 12))
  else
    added = redis.pcall('XADD', target, 'NOMKSTREAM', '*', unpack(ARGV, 12))
  end
  if type(added) == 'table' and added.err then refusal = added.err end
end
if channel ~= '' then unpublished = publish(channel, payload) end
return {1, refusal, unpublished}
