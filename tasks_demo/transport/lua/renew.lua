-- renew: keep what a living owner holds away from the visibility timeout of stock workers on the same queues.
--
-- KEYS[1]  held by this owner    KEYS[2]  kombu's index
-- ARGV[1]  seconds: only entries older than this are renewed
--
-- Replies how many were renewed.

local now, renewed = tonumber(redis.call('TIME')[1]), 0
for _, token in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local score = redis.call('ZSCORE', KEYS[2], token)
  if score and tonumber(score) < now - tonumber(ARGV[1]) then
    redis.call('ZADD', KEYS[2], 'XX', now, token)
    renewed = renewed + 1
  end
end
return renewed
