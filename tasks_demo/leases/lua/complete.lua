-- complete: mark the operation as done, for as long as the retention.
--
-- KEYS[1]  the operation's record (see claim.lua)
-- ARGV[1]  owner: the token of the claim
-- ARGV[2]  fence: of the claim. A copy of the claim that was under way for longer than its lease may have been granted again,
--          to the same token: its holder knows nothing of that, and others have worked in between
-- ARGV[3]  retention, milliseconds, from now
-- ARGV[4]  result, JSON text; left out when none is to be stored
--
-- Replies  {'completed'}  also when the same token asks again because the first reply was lost
--          {'lost'}       somebody else has claimed since, or the lease was released, or the record is gone
--
-- An expired lease may still complete if nobody has claimed since: the work is done and nobody else has begun it, so
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

-- PEXPIRE first: a full Redis accepts it, and lets a script that has written finish. A refused marker would cost a
-- second execution, so the last result goes in even when memory is short.
redis.call('PEXPIRE', record, retention_ms)
redis.call('HDEL', record, 'deadline')
if result then
  redis.call('HSET', record, 'state', 'completed', 'result', result)
else
  redis.call('HSET', record, 'state', 'completed')
end
return {'completed'}
