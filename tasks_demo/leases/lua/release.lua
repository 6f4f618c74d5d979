-- release: end the lease without completing the operation; the next claim need not wait for its expiry.
--
-- KEYS[1]  the operation's record (see claim.lua)
-- ARGV[1]  owner: the token of the claim
-- ARGV[2]  fence of the claim
-- ARGV[3]  retention, milliseconds
--
-- Replies  {'released'}
--          {'lost'}      the token does not hold the lease; nothing was changed
--
-- The record is not deleted: fence, attempt and digest must outlive the lease.

local record = KEYS[1]
local owner, fence, retention_ms = ARGV[1], ARGV[2], ARGV[3]

local state, holder, latest = unpack(redis.call('HMGET', record, 'state', 'owner', 'fence'))
if state ~= 'claimed' or holder ~= owner or latest ~= fence then
  return {'lost'}
end

-- PEXPIRE first: a full Redis accepts it, and does not stop a script that has already written.
redis.call('PEXPIRE', record, retention_ms)
redis.call('HDEL', record, 'owner', 'deadline', 'who')
redis.call('HSET', record, 'state', 'released')
return {'released'}
