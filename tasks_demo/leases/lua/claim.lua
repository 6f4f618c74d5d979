-- claim: ask for the lease on an operation.
--
-- KEYS[1]  the operation's record, a hash:
--            state     claimed | completed | released | forgotten (see forget.lua)
--            owner     token of the claim that holds the lease, or that completed the operation; absent when released
--            fence     integer, greater for every claim than for any earlier claim
--            attempt   integer, the number of claims so far
--            digest    of the arguments of the first claim
--            deadline  end of the lease, milliseconds of Redis TIME; only while claimed
--            who       the process that made the claim and its task ID (process.py); public, unlike the token
--            result    JSON text; only when completed with a result
-- ARGV[1]  owner: a random token, a new one for every claim
-- ARGV[2]  digest of the arguments
-- ARGV[3]  length of the lease, milliseconds
-- ARGV[4]  retention, milliseconds: the record lives this long after its last change
-- ARGV[5]  who claims
-- ARGV[6]  fence of a claim whose process is known to have ended, or empty: that claim's lease is taken over at once
--
-- Replies  {'claimed', fence, attempt}   the caller holds the lease
--          {'held', ms_left, fence, who} another claim holds the lease, which ends in ms_left (at least 1)
--          {'completed', who, result}    completed earlier; {'completed', who} if no result was stored
--          {'mismatch'}                  the key was used with other arguments, by a claim in any state
--          error BADRECORD               the record is damaged or not ours; nothing was changed
--
-- If the token that holds the lease claims again (its reply was lost), it gets the same fence and attempt: nobody else can
-- have claimed in between, or the token would have been replaced. (A copy of a claim that arrives after a later claim has
-- ended is a new claim, with a new fence; renew, complete and release compare token and fence.)
-- Expiry is judged by Redis TIME alone. The exception is a claim whose process has ended: the fence identifies exactly that one.
-- Only 'claimed' changes the record.

local record = KEYS[1]
local owner, digest, lease_ms, retention_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local claimant, gone = ARGV[5], ARGV[6]

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now_ms = math.floor(now_us / 1000)
-- Rounded up: a lease in Redis never ends before its owner thinks it does.
local deadline_ms = string.format('%.0f', now_ms + 1 + lease_ms)

local state, holder, fence, attempt, known_digest, held_until, result, who =
  unpack(redis.call('HMGET', record, 'state', 'owner', 'fence', 'attempt', 'digest', 'deadline', 'result', 'who'))

if state == 'forgotten' then
  state, known_digest = 'released', digest  -- the next claim may have any arguments
end
if redis.call('EXISTS', record) == 1 then
  local sound = tonumber(fence or '') and tonumber(attempt or '') and known_digest
    and (state == 'released' or (state == 'claimed' and holder and tonumber(held_until or ''))
      or (state == 'completed' and holder))
  if not sound then
    return redis.error_reply('BADRECORD the record of this operation is damaged; inspect it before you delete it')
  end
  if known_digest ~= digest then
    return {'mismatch'}
  end
  if state == 'completed' then
    if result then
      return {'completed', who or '', result}
    end
    return {'completed', who or ''}
  end
  if state == 'claimed' and holder == owner then
    redis.call('HSET', record, 'deadline', deadline_ms)
    redis.call('PEXPIRE', record, retention_ms)
    return {'claimed', fence, attempt}
  end
  if state == 'claimed' and fence ~= gone and tonumber(held_until) > now_ms then
    return {'held', string.format('%.0f', tonumber(held_until) - now_ms), fence, who or ''}
  end
end

-- The clock keeps the fence growing after the record was deleted; the previous fence does after the clock was set back.
fence = string.format('%.0f', math.max((tonumber(fence or '') or 0) + 1, now_us))
attempt = string.format('%.0f', (tonumber(attempt or '') or 0) + 1)

-- A single HSET, before any other write: a full Redis refuses it before anything has changed.
redis.call('HSET', record, 'state', 'claimed', 'owner', owner, 'fence', fence, 'attempt', attempt,
  'digest', digest, 'deadline', deadline_ms, 'who', claimant)
redis.call('PEXPIRE', record, retention_ms)
return {'claimed', fence, attempt}
