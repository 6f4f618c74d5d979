-- complete: mark the operation as completed, for the length of the retention.
--
-- KEYS[1]  the operation's record (see claim.lua)
-- ARGV[1]  owner: the token of the claim
-- ARGV[2]  fence of the claim. The token alone is not enough: a copy of the claim that was in transit for longer than its lease
--          may have been granted again to the same token, without the holder's knowledge, after other claims
-- ARGV[3]  retention, milliseconds, from now
-- ARGV[4]  result, JSON text; left out when none is to be stored
--
-- Replies  {'completed'}  also when the same token asks again because the first reply was lost
--          {'lost'}       another claim was made since, the lease was released, or the record was deleted
--
-- An expired lease may still complete if there was no other claim since: the work is done and nobody else has begun it, so
-- a refusal would only make it run a second time.

local record = KEYS[1]
local owner, fence, retention_ms, result = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local state, holder, latest = unpack(redis.call('HMGET', record, 'state', 'owner', 'fence'))
if holder ~= owner or latest ~= fence or (state ~= 'claimed' and state ~= 'completed') then
  return {'lost'}
end
if state == 'completed' then
  return {'completed'}
end

-- PEXPIRE first: a full Redis accepts it, and does not stop a script that has already written. If the marker were refused, the
-- operation would run a second time.
redis.call('PEXPIRE', record, retention_ms)
redis.call('HDEL', record, 'deadline')
if result then
  redis.call('HSET', record, 'state', 'completed', 'result', result)
else
  redis.call('HSET', record, 'state', 'completed')
end
return {'completed'}
