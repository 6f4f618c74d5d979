-- claim: take messages from queues and record at once who holds them.
--
-- KEYS[1]   owners: hash, living owner -> how it is watched
-- KEYS[2]   held by this owner: sorted set, token -> number of the claim
-- KEYS[3]   kombu's hash of unacknowledged messages: token -> [message, exchange, routing key]
-- KEYS[4]   kombu's index of them: sorted set, token -> Unix time
-- KEYS[5…]  the wake marker of each queue, then the lists of all queues: all of the first priority, all of the next, …
-- ARGV[1]   owner
-- ARGV[2]   what tokens begin with; the position of the message in this claim is appended
-- ARGV[3]   number of this claim
-- ARGV[4]   how many messages the consumer can take
-- ARGV[5]   number of queues
-- ARGV[6…]  for each queue: its name as JSON text; '1' if its messages need no acknowledgement, else '0'
--
-- Replies   {'fenced'}                                  not a living owner: nothing was taken
--           {messages left, queue number, message, …}   queue numbers count from 0
--
-- The exchange is written as "" and the routing key as the queue, so that a stock worker that restores the record puts it
-- on the same queue.
-- RPOP is the first write. When Redis is full it refuses a script's first write only, and it never refuses RPOP; so no message
-- is taken without its record.

local owner, prefix, number = ARGV[1], ARGV[2], ARGV[3]
local want, queues = tonumber(ARGV[4]), tonumber(ARGV[5])
local last_wake = 4 + queues

local living = redis.call('HLEN', KEYS[1])
if redis.call('HEXISTS', KEYS[1], owner) == 0 then
  return {'fenced'}
end

local total, length = 0, {}
for i = last_wake + 1, #KEYS do
  length[i] = redis.call('LLEN', KEYS[i])
  total = total + length[i]
end
if total == 0 then
  redis.call('DEL', unpack(KEYS, 5, last_wake))
  return {0}
end

-- No more than a fair share: what one consumer holds, an idle one cannot run.
want = math.min(want, math.ceil(total / living))

local time = redis.call('TIME')
local score = time[1] .. '.' .. string.format('%06d', time[2])
local reply, taken = {0}, 0
for base = last_wake + 1, #KEYS, queues do
  local found = true
  while found and taken < want do
    found = false
    for q = 0, queues - 1 do  -- one of each queue in turn
      local list = base + q
      if taken < want and length[list] > 0 then
        local message = redis.call('RPOP', KEYS[list])
        length[list] = length[list] - 1
        taken = taken + 1
        found = true
        if ARGV[7 + 2 * q] == '0' then
          local token = prefix .. taken
          redis.call('HSET', KEYS[3], token, '[' .. message .. ',"",' .. ARGV[6 + 2 * q] .. ']')
          redis.call('ZADD', KEYS[4], score, token)
          redis.call('ZADD', KEYS[2], number, token)
        end
        reply[#reply + 1] = q
        reply[#reply + 1] = message
      end
    end
  end
end

reply[1] = total - taken
if taken < total then
  for i = last_wake + 1, #KEYS do
    if length[i] > 0 then
      local wake = KEYS[5 + (i - last_wake - 1) % queues]
      if redis.call('EXISTS', wake) == 0 then
        redis.call('LPUSH', wake, '1')
        redis.call('EXPIRE', wake, 60)
      end
    end
  end
end
return reply
