-- forget: allow an operation to run again. For operators; workers never call it.
--
-- KEYS[1]  the operation's record (see claim.lua)
-- ARGV[1]  fence that the operator was shown, or empty: the record had none. A different fence means that there was a new claim
-- ARGV[2]  state that the operator was shown
-- ARGV[3]  '1': even while a lease is held. Its holder then loses it; receivers that check the fence refuse its writes once a
--          later holder has written
-- ARGV[4]  retention, milliseconds
--
-- Replies  {'forgotten'}
--          {'held', ms_left}  a lease is held; nothing was changed
--          {'changed'}        the record has changed since it was shown; it was left as it is
--          {'unknown'}        there is no record
--
-- Marker, result and digest are removed; fence and attempt stay, so that the next claim gets a greater fence than any before. A
-- record without a fence (damaged, or not ours) is deleted; the clock then keeps the next fence above the last.

local record = KEYS[1]
local shown_fence, shown_state, held_too, retention_ms = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4]

local kind = redis.call('TYPE', record)['ok']
if kind == 'none' then
  return {'unknown'}
end
if kind ~= 'hash' then
  if shown_state ~= 'damaged' then
    return {'changed'}
  end
  redis.call('DEL', record)
  return {'forgotten'}
end

local state, fence, attempt, held_until = unpack(redis.call('HMGET', record, 'state', 'fence', 'attempt', 'deadline'))
if (fence or '') ~= shown_fence or (state or '') ~= shown_state then
  return {'changed'}
end
if state == 'claimed' and not held_too then
  local time = redis.call('TIME')
  local left = (tonumber(held_until or '') or 0) - (tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
  if left > 0 then
    return {'held', string.format('%.0f', left)}
  end
end
if not (tonumber(fence or '') and tonumber(attempt or '')) then
  redis.call('DEL', record)
  return {'forgotten'}
end
-- PEXPIRE first: a full Redis accepts it, and does not stop a script that has already written.
redis.call('PEXPIRE', record, retention_ms)
redis.call('HDEL', record, 'owner', 'deadline', 'digest', 'result', 'who')
redis.call('HSET', record, 'state', 'forgotten')
return {'forgotten'}
