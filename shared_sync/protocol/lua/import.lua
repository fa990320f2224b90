-- Add a dead letter from a file, unless the index has a letter that the caller has not seen.
-- KEYS: dead, index
-- ARGV: old id of the letter, id of the newest letter that the caller has seen or '', number of items
--       that are added if it gets a new id, these items ..., its items ...
-- Returns the id, or nil if there is a letter that the caller has not seen. The letter keeps its old
-- id, unless the stream has had a later one.

local dead, index = KEYS[1], KEYS[2]
local id, seen, extra = ARGV[1], ARGV[2], tonumber(ARGV[3])

local newest = redis.pcall('ZRANGE', index, -1, -1)[1]
newest = newest and letter_of(newest)
if newest and (seen == '' or id_is_after(newest, seen)) then return false end

local own, added = {}, nil
for i = 4 + extra, #ARGV do own[#own + 1] = ARGV[i] end
local is_time = id:match('^%d+-%d+$') and tonumber(id:match('^%d+')) <= now_ms()
if is_time then added = redis.pcall('XADD', dead, id, unpack(own)) end
if not added or added.err then
  for i = 4, 3 + extra do own[#own + 1] = ARGV[i] end
  added = redis.call('XADD', dead, '*', unpack(own))
end
index_letter(index, added, own)
return added
