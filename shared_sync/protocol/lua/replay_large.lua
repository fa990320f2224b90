-- Remove a dead letter of which a client has just published the message, in the same transaction.
-- No script can publish a message of very many fields: Lua's unpack ends at about 8000 values.
-- KEYS: stream, dead, index, record
-- ARGV: dead letter id, how long the record is kept (see replay.lua), SHA-1 of the names and values
--       of its message, each as a netstring; or '' to try whether this user has the rights
-- Returns 1 if it was removed, or 0 if it was gone, and then the message is removed. If the newest
-- message is another one, because publishing was refused, nothing is removed.

local stream, dead, index, record = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local letter_id, kept_ms, digest = ARGV[1], ARGV[2], ARGV[3]

local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
if digest == '' then
  return redis.call('XDEL', stream, '0-0') + redis.call('XDEL', dead, '0-0')
end
local packed = {}
for i, item in ipairs(newest and newest[2] or {}) do packed[i] = #item .. ':' .. item .. ',' end
if redis.sha1hex(table.concat(packed)) ~= digest then
  return redis.error_reply('ERR the message was not published')
end
local removed = redis.call('XDEL', dead, letter_id)
if removed == 0 then
  redis.call('XDEL', stream, newest[1])
else
  unindex_letter(index, letter_id)
  record_replay(record, letter_id, newest[1], kept_ms)
end
return removed
