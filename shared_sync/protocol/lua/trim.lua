-- Delete the oldest entries of a stream beyond a limit of their number or age, in a limited step.
-- KEYS: stream, and for dead letters their index
-- ARGV: most entries to keep or '', longest age in ms or '', most entries to delete now, '1' to remove
--       a stream without entries and groups, or ''
-- Returns {number of deleted entries, 1 if the stream does not exist (any more) or 0, refusal or ''}.

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
  -- '~' deletes whole nodes, within the limit of the step; the rest is less than a node.
  local oldest = now_ms() - longest_age
  if trim('MINID', '~', oldest, 'LIMIT', step) == 0 and refusal == '' then trim('MINID', oldest) end
end
length = length - deleted

-- Also remove the letters from the index. Without the right to do so they stay in the index until
-- somebody lists the letters.
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
