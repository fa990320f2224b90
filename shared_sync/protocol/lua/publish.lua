-- Add messages in order, until the stream is full or the server refuses one.
-- KEYS: stream
-- ARGV: most entries the stream may hold ('' for no limit), then for each message:
--       number of items, field, value, ...
-- Returns {ids of the accepted, '' or the text of the refusal}.

local limit = tonumber(ARGV[1])
local room = limit and limit - redis.call('XLEN', KEYS[1])
local ids = {}

local i = 2
while ARGV[i] and (not room or #ids < room) do
  local items = tonumber(ARGV[i])
  local id = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, i + 1, i + items))
  if type(id) == 'table' and id.err then return {ids, id.err} end
  ids[#ids + 1] = id
  i = i + items + 1
end
return {ids, ''}
