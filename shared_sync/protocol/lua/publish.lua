-- Add messages in order, until the stream is full or the server refuses one.
-- KEYS: stream
-- ARGV: most entries the stream may hold ('' for no limit), then for each message:
--       number of items, field, value, ...
-- Returns {ids of the accepted, '' or the text of the refusal}.

local stream, arguments = KEYS[1], ARGV
local pcall, unpack = redis.pcall, unpack  -- a local is found faster than a global
local limit = tonumber(arguments[1])
local room = limit and limit - redis.call('XLEN', stream) or math.huge
local ids, accepted, count = {}, 0, 2

while arguments[count] and accepted < room do
  local last = count + tonumber(arguments[count])
  local id = pcall('XADD', stream, '*', unpack(arguments, count + 1, last))
  if type(id) == 'table' then return {ids, id.err} end
  accepted = accepted + 1
  ids[accepted] = id
  count = last + 1
end
return {ids, ''}
