-- renew: extend the lease to its full duration from now.
--
-- KEYS[1]  the operation's record (see claim.lua)
-- ARGV[1]  owner: the token of the claim
-- ARGV[2]  fence of the claim
-- ARGV[3]  length of the lease, milliseconds
-- ARGV[4]  retention, milliseconds
--
-- Replies  {'renewed'}
--          {'lost'}     the token does not hold the lease: taken over, released, completed, or the record was deleted
--
-- An expired lease is renewed if there was no other claim since: nobody else can have run the operation.

local record = KEYS[1]
local owner, fence, lease_ms, retention_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

local state, holder, latest = unpack(redis.call('HMGET', record, 'state', 'owner', 'fence'))
if state ~= 'claimed' or holder ~= owner or latest ~= fence then
  return {'lost'}
end

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
-- PEXPIRE first: a full Redis accepts it, and does not stop a script that has already written. Renewing needs no more memory.
redis.call('PEXPIRE', record, retention_ms)
redis.call('HSET', record, 'deadline', string.format('%.0f', now_ms + 1 + lease_ms))
return {'renewed'}
