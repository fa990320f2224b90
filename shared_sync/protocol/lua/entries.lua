-- How many entries were ever added to a stream, and how many it has. Writes nothing.
-- KEYS: stream
-- Returns {added, or -1 where the server does not count them, as before 7.0; entries in the stream}.
--
-- The reply of XINFO STREAM has the first and the last entry whole, which are left here.

local added, length = -1, redis.call('XLEN', KEYS[1])
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do
  if info[i] == 'entries-added' then added = info[i + 1] end
end
return {added, length}
