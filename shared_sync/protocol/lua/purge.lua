-- Delete dead letters for good.
-- KEYS: dead, index
-- ARGV: ids ...
-- Returns how many of them existed.

local dead, index = KEYS[1], KEYS[2]
local removed = redis.call('XDEL', dead, unpack(ARGV))
for _, id in ipairs(ARGV) do unindex_letter(index, id) end
return removed
