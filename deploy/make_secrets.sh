#!/bin/sh
# Makes the passwords of the speech service: sh make_secrets.sh FOLDER
#
# FOLDER gets users.acl for Redis, an address of Redis for each kind of program (gateway.env, worker.env,
# monitor.env), and health-token. Nothing that exists is replaced. REDIS_HOST is the name of the Redis
# server (default: redis).
set -eu
folder=${1:?"usage: sh make_secrets.sh FOLDER"}
host=${REDIS_HOST:-redis}
if [ -e "$folder/users.acl" ]; then
  echo "$folder/users.acl exists; remove the folder to make new passwords" >&2
  exit 1
fi
umask 077
mkdir -p "$folder"

secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
sha256() { printf %s "$1" | { sha256sum 2>/dev/null || shasum -a 256; } | cut -d' ' -f1; }

# The least rights of each kind of program; docs/redis.md says what each right is for.
keys='~{speech}:*'
worker='+xinfo|groups +xinfo|stream +xinfo|consumers +xreadgroup +xack +xclaim +xpending +xadd +xdel +xlen
  +xrange +xrevrange +xtrim +xgroup|create +xgroup|delconsumer +evalsha +script|load +time +info +publish
  +hget +hset +hdel +hlen +hkeys +hgetall +zadd +zrem +zcard +zcount +zrange +zrangebyscore +zscore
  +get +set +del +unlink +expire +pexpire +pexpireat +client|setname +ping'
gateway='+xadd +xlen +xread +xdel +xrange +xrevrange +xinfo|groups +xinfo|stream +xpending +evalsha
  +script|load +time +get +set +del +expire +pexpire +pexpireat +hget +hset +hdel +zadd +zrem +zscore +zcard
  +zrange +zrangebyscore +client|setname +ping'
monitor='+time +info +xlen +zcount +zcard +zrange +xpending +xrange +xrevrange +xinfo|groups +xinfo|stream
  +xinfo|consumers +hget +hgetall +hlen +evalsha +script|load +client|setname +ping'

{
  echo 'user default on nopass -@all +ping'
  for name in gateway worker monitor; do
    password=$(secret)
    echo "REDIS_URL=redis://$name:$password@$host:6379/0" > "$folder/$name.env"
    eval "rights=\$$name"
    echo "user $name on #$(sha256 "$password") resetchannels &{speech}:* $keys" $rights
  done
} > "$folder/users.acl"
secret > "$folder/health-token"
# Users of the containers read these two: hashes of passwords, and the token of pages on loopback.
chmod 755 "$folder"
chmod 644 "$folder/users.acl" "$folder/health-token"
echo "passwords are in $folder"
