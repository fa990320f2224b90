-- Read dead letters, oldest first, until there are enough of them or they are large. Only reads.
-- A dead letter contains the whole message, megabytes of audio perhaps, and the server can read
-- only all of it. So one call reads few of the large ones: it must not block the server for long.
-- KEYS: dead
-- ARGV: id of the first ('-' for the oldest, '(' in front of the one before it), most letters,
--       most bytes (of the last one more are read)
-- Returns {1 if there may be more or 0, {id, items} ...}.

local dead, from = KEYS[1], ARGV[1]
local most, room = tonumber(ARGV[2]), tonumber(ARGV[3])
local found = {1}

while #found <= most and room > 0 do
  local entry = redis.call('XRANGE', dead, from, '+', 'COUNT', 1)[1]
  if not entry then
    found[1] = 0
    break
  end
  for _, item in ipairs(entry[2]) do room = room - #item end
  found[#found + 1] = entry
  from = '(' .. entry[1]
end
return found
