-- Delete some of the oldest entries of a stream, beyond a number of entries or an age.
-- KEYS: stream, and if these are dead letters, their index
-- ARGV: most entries to keep or '', longest age in ms or '', most entries to delete now, '1' to remove
--       the stream if it is left without entries and groups, or ''
-- Returns {how many it deleted, 1 if there is no such stream (any more) or 0, the refusal or ''}.

local stream, index = KEYS[1], KEYS[2]
local keep, longest_age, step = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local removes_empty = ARGV[4] == '1'

local length = redis.pcall('XLEN', stream)
if type(length) == 'table' then return {0, 0, length.err} end

local deleted, refusal = 0, ''

local function trim(...)
  local trimmed = redis.pcall('XTRIM', stream, ...)
  if type(trimmed) == 'table' then
    refusal = trimmed.err
    return 0
  end
  deleted = deleted + trimmed
  return trimmed
end

if keep and length > keep then trim('MAXLEN', math.max(keep, length - step)) end
if longest_age and length > 0 and deleted < step and refusal == '' then
  -- Whole nodes of the stream go in a step of limited size, and what is left is less than a node.
  local oldest = now_ms() - longest_age
  if trim('MINID', '~', oldest, 'LIMIT', step) == 0 and refusal == '' then trim('MINID', oldest) end
end
length = length - deleted

-- The oldest ones of the index go with the letters. Without the right to its commands it keeps them,
-- and whoever lists the letters removes them.
if index and deleted > 0 then
  local indexed = redis.pcall('ZCARD', index)
  local surplus = type(indexed) == 'number' and math.min(indexed - length, step) or 0
  if surplus > 0 then
    for _, member in ipairs(redis.pcall('ZRANGE', index, 0, surplus - 1)) do
      redis.pcall('ZREM', index, member)
    end
  end
end

local gone = 0
if length == 0 and removes_empty then
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err then
    gone = groups.err:find('no such key', 1, true) and 1 or 0
  elseif #groups == 0 then
    local removed = redis.pcall('UNLINK', stream)
    if type(removed) == 'table' then refusal = removed.err else gone = 1 end
  end
end
return {deleted, gone, refusal}
