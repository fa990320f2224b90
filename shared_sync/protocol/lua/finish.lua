-- Acknowledge messages that are done and have no result, and delete their entries.
-- KEYS: stream, history, due
-- ARGV: group, id ...
-- Returns how many of them this call ended; the others had ended before.

local stream, history, due, group = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local ids = {unpack(ARGV, 2)}

local groups, has_history = prepare_to_end(stream, group, history, due)
local ended = redis.call('XACK', stream, group, unpack(ids))
if has_history and redis.call('HDEL', history, unpack(ids)) > 0 then
  redis.call('ZREM', due, unpack(ids))
end
local is_alone = #groups == 1 and groups[1]['name'] == group
if ended == 0 and not is_alone then return 0 end
local deleted = delete_finished(stream, group, ids, ended == #ids, groups)
-- In the only group an entry that is there is unfinished, also if XGROUP DELCONSUMER has removed it
-- from the pending list.
return is_alone and math.max(ended, deleted) or ended
