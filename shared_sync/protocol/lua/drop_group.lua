-- Destroy a group, unless that would lose something and is not wanted all the same.
-- KEYS: stream, presence
-- ARGV: group, '1' to destroy it whatever it has, or ''
-- Returns {1 if it was destroyed or 0, messages that it has pending, consumers whose lease runs, groups
-- of the stream, entries in the stream}. Fails with NOGROUP if there is no such group.

local stream, presence, group, is_forced = KEYS[1], KEYS[2], ARGV[1], ARGV[2] == '1'

local pending = redis.call('XPENDING', stream, group)[1]
local leases = #redis.call('ZRANGEBYSCORE', presence, '(' .. now_ms(), '+inf')
local groups, entries = #groups_of(stream), redis.call('XLEN', stream)
local loses = pending > 0 or leases > 0 or (groups == 1 and entries > 0)
if loses and not is_forced then return {0, pending, leases, groups, entries} end
return {redis.call('XGROUP', 'DESTROY', stream, group), pending, leases, groups, entries}
