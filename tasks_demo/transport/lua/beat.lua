-- beat: say that the owner lives, and learn whom it has to watch.
--
-- KEYS[1]  owners    KEYS[2]  beats    KEYS[3]  the watcher's lease: text, its owner    KEYS[4]  dead owners    (see register.lua)
-- ARGV[1]  owner    ARGV[2]  length of the lease, milliseconds
--
-- Replies  {'fenced'}                      declared dead
--          {'watcher', {owner, watched, …}, {owner, beat, …}, {dead owner, …}}
--          {'member',  the same of the watcher alone, and no dead owners}
--
-- One living owner watches all others; all others watch it.

local me = ARGV[1]
if redis.call('HEXISTS', KEYS[1], me) == 0 then
  return {'fenced'}
end
redis.call('HDEL', KEYS[1], '')  -- changes nothing: a full Redis would refuse HINCRBY as the first write
redis.call('HINCRBY', KEYS[2], me, 1)
local watcher = redis.call('GET', KEYS[3])
if watcher and watcher ~= me then
  local watched = redis.call('HGET', KEYS[1], watcher)
  if watched then
    return {'member', {watcher, watched}, {watcher, redis.call('HGET', KEYS[2], watcher) or ''}, {}}
  end
end
redis.call('SET', KEYS[3], me, 'PX', ARGV[2])
return {'watcher', redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2]), redis.call('SMEMBERS', KEYS[4])}
