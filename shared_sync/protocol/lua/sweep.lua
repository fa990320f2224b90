-- Delete some of the entries that only removed groups needed.
-- KEYS: stream, kept
-- ARGV: group, '1' if the group was just created from id 0, or ''
-- Returns {how many it deleted, the refusal of the server or ''}.
--
-- An entry that every group has finished is deleted when the last of them finishes it. If a group
-- that has not is destroyed, nobody comes after it. What is deleted here has been read by this group
-- and finished by all groups that there are:
--   * `kept` has `complete` if the group has read every entry up to its last-delivered-id: it was
--     created from id 0, or the stream once had no entry that the group did not need. A group that
--     was created behind entries has never read those.
--   * `kept` has `several` while the stream has several groups, and `until` then and until this is
--     done: up to where this group had read when there were several. So nothing is ever deleted here
--     from a stream that has always had one group.

local STEP = 10000  -- most entries of one call, so that none takes long

local stream, kept, group = KEYS[1], KEYS[2], ARGV[1]

local found, groups = pcall(groups_of, stream)
if not found then return {0, ''} end  -- there is no stream

local own_last, own_from, all_from
for _, info in ipairs(groups) do
  local from = needed_from(stream, info)
  if info['name'] == group then own_last, own_from = info['last-delivered-id'], from end
  if not all_from or id_is_after(all_from, from) then all_from = from end
end
if not own_last then return {0, ''} end

-- A full server may refuse it; then a later call does it.
local function note(field, value) return type(redis.pcall('HSET', kept, field, value)) == 'number' end

local function needs_all_that_is_there()
  if redis.call('XLEN', stream) == 0 then return true end
  local first = redis.pcall('XRANGE', stream, '-', '+', 'COUNT', 1)  -- the right may be missing
  return not first.err and not id_is_after(own_from, first[1][1])
end

local complete = redis.call('HGET', kept, 'complete')
if not complete and (ARGV[2] == '1' or needs_all_that_is_there()) then
  complete = note('complete', '1')
end
if not complete then return {0, ''} end

local until_id = redis.call('HGET', kept, 'until')
local has_several, had_several = #groups > 1, redis.call('HGET', kept, 'several')
if has_several or had_several then
  if not until_id or id_is_after(own_last, until_id) then
    until_id = note('until', own_last) and own_last
  end
end
if has_several and not had_several then note('several', '1') end
if had_several and not has_several then redis.call('HDEL', kept, 'several') end
if not until_id then return {0, ''} end

local below = id_after(until_id)
if id_is_after(below, all_from) then below = all_from end
local deleted = redis.pcall('XTRIM', stream, 'MINID', '~', below, 'LIMIT', STEP)
if deleted == 0 then deleted = redis.pcall('XTRIM', stream, 'MINID', below) end
if type(deleted) == 'table' then return {0, deleted.err} end
if deleted == 0 and not has_several and id_is_after(below, until_id) then
  redis.call('HDEL', kept, 'until')
end
return {deleted, ''}
