package kv

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Redis is a Store in Redis: a single server, one behind sentinels, or a
// cluster. Use NewRedis.
//
// The records are in 16 buckets, by the hash of their key, each of which is one
// slot of a cluster. A record is a hash. A bucket has two sorted sets beside its
// records: by when they expire, and by group. So each write touches one slot,
// and a script keeps record and sets together. The keys of Redis begin with
// "curfew-op:".
//
// Nothing expires by itself, since Sweep is told the time. Redis must not evict:
// maxmemory-policy noeviction, which is its default.
type Redis struct {
	client redis.UniversalClient
}

// NewRedis returns the store. The caller closes the client. appendonly and appendfsync decide how
// durable a write is.
func NewRedis(client redis.UniversalClient) *Redis { return &Redis{client} }

// get reads a record.
var get = newScript(false, proves+`
-- KEYS: the record.
return redis.call('HMGET', KEYS[1], 'revision', 'group', 'value', 'expires')
`)

// members reads what begins alike in the set by group.
var members = newScript(false, proves+`
-- KEYS: by group.
-- ARGV: from, before.
return redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2])
`)

// expired reads which records are over.
var expired = newScript(false, proves+`
-- KEYS: by expiry.
-- ARGV: until when, how many.
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', '0', ARGV[2])
`)

// put writes a record if its revision is still what was read, "0" meaning that
// there is none.
var put = newScript(true, `
-- KEYS: by expiry, by group, the record.
-- ARGV: the record's key, its revision, the next one, group, value, expires, member of the set by group or "".
local old = redis.call('HMGET', KEYS[3], 'revision', 'member')
if (old[1] or '0') ~= ARGV[2] then
	redis.call('PERSIST', KEYS[1])
	return 0
end
redis.call('HSET', KEYS[3], 'revision', ARGV[3], 'group', ARGV[4], 'value', ARGV[5], 'expires', ARGV[6], 'member', ARGV[7])
redis.call('ZADD', KEYS[1], ARGV[6], ARGV[1])
if ARGV[7] ~= '' then
	redis.call('ZADD', KEYS[2], 0, ARGV[7])
end
if old[2] and old[2] ~= '' and old[2] ~= ARGV[7] then
	redis.call('ZREM', KEYS[2], old[2]) -- last: a set that is empty is gone, and in a slot that moves nobody may ask for it
end
return 1
`)

// remove removes those of some records for which a condition holds, and returns
// how many.
var remove = newScript(true, proves+`
-- KEYS: by expiry, by group, the records.
-- ARGV: "any", "group" or "expired", the beginning of the group's members or the time, the keys of the records.
local removed = 0
for i = 3, #KEYS do
	local old = redis.call('HMGET', KEYS[i], 'expires', 'member')
	if old[1] and (ARGV[1] == 'any'
		or ARGV[1] == 'group' and old[2] == ARGV[2] .. ARGV[i]
		or ARGV[1] == 'expired' and tonumber(old[1]) <= tonumber(ARGV[2])) then
		redis.call('DEL', KEYS[i])
		redis.call('ZREM', KEYS[1], ARGV[i])
		if old[2] ~= '' then
			redis.call('ZREM', KEYS[2], old[2])
		end
		removed = removed + 1
	end
end
return removed
`)

const buckets = "0123456789abcdef"

func bucketOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:1])[:1]
}

// The braces are Redis's: what is in them decides the slot.
func expiryKey(bucket string) string      { return "curfew-op:{" + bucket + "}:by-expiry" }
func groupKey(bucket string) string       { return "curfew-op:{" + bucket + "}:by-group" }
func recordKey(bucket, key string) string { return "curfew-op:{" + bucket + "}:record:" + key }

// memberPrefix is what the members of a group begin with in the sets by group,
// before the key of the record. It has the same length for all groups, so that
// none is the beginning of another one.
func memberPrefix(group string) string {
	sum := sha256.Sum256([]byte(group))
	return hex.EncodeToString(sum[:16])
}

// Get implements Store.
func (s *Redis) Get(ctx context.Context, key string) (Record, error) {
	fields, err := s.run(ctx, get, []string{recordKey(bucketOf(key), key)}).Slice()
	if err == nil && len(fields) != 4 {
		err = errors.New("the script returned something else")
	}
	if err != nil {
		return Record{}, fmt.Errorf("get: %w", err)
	}
	if fields[0] == nil {
		return Record{}, fmt.Errorf("get: %w", ErrNotFound)
	}
	texts := make([]string, len(fields))
	for i, field := range fields {
		var ok bool
		if texts[i], ok = field.(string); !ok {
			return Record{}, errors.New("get: the record is not whole")
		}
	}
	revision, err := strconv.ParseInt(texts[0], 10, 64)
	if err != nil {
		return Record{}, fmt.Errorf("get: revision: %w", err)
	}
	expires, err := strconv.ParseInt(texts[3], 10, 64)
	if err != nil {
		return Record{}, fmt.Errorf("get: expires: %w", err)
	}
	return Record{Key: key, Group: texts[1], Value: []byte(texts[2]), Expires: time.UnixMicro(expires).UTC(), Revision: revision}, nil
}

// Put implements Store.
func (s *Redis) Put(ctx context.Context, r Record) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	bucket, member := bucketOf(r.Key), ""
	if r.Group != "" {
		member = memberPrefix(r.Group) + r.Key
	}
	n, err := s.run(ctx, put, []string{expiryKey(bucket), groupKey(bucket), recordKey(bucket, r.Key)},
		r.Key, r.Revision, r.Revision+1, r.Group, r.Value, r.Expires.UnixMicro(), member).Int()
	if err == nil && n == 0 {
		err = ErrConflict
	}
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	return nil
}

// Delete implements Store.
func (s *Redis) Delete(ctx context.Context, key string) error {
	n, err := s.remove(ctx, bucketOf(key), "any", "", []string{key})
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// DeleteGroup implements Store.
func (s *Redis) DeleteGroup(ctx context.Context, group string) error {
	if group == "" {
		return ctx.Err()
	}
	prefix := memberPrefix(group)
	after := prefix[:len(prefix)-1] + string(prefix[len(prefix)-1]+1)
	for i := range buckets {
		bucket := buckets[i : i+1]
		keys, err := s.run(ctx, members, []string{groupKey(bucket)}, "["+prefix, "("+after).StringSlice()
		if err != nil {
			return fmt.Errorf("delete a group: %w", err)
		}
		for j := range keys {
			keys[j] = keys[j][len(prefix):]
		}
		if _, err := s.remove(ctx, bucket, "group", prefix, keys); err != nil {
			return fmt.Errorf("delete a group: %w", err)
		}
	}
	return nil
}

// Sweep implements Store.
func (s *Redis) Sweep(ctx context.Context, now time.Time, limit int) (removed int, err error) {
	until := strconv.FormatInt(now.UnixMicro(), 10)
	for i := 0; i < len(buckets) && removed < limit; i++ {
		keys, err := s.run(ctx, expired, []string{expiryKey(buckets[i : i+1])}, until, limit-removed).StringSlice()
		if err != nil {
			return removed, fmt.Errorf("sweep: %w", err)
		}
		n, err := s.remove(ctx, buckets[i:i+1], "expired", until, keys)
		removed += n
		if err != nil {
			return removed, fmt.Errorf("sweep: %w", err)
		}
	}
	return removed, nil
}

// maxKeys is how many records one script removes: it holds up everybody else for
// less than a millisecond.
const maxKeys = 100

// remove removes those of some records of one bucket for which a condition
// holds, and returns how many.
func (s *Redis) remove(ctx context.Context, bucket, condition, value string, keys []string) (removed int, err error) {
	for some := range slices.Chunk(keys, maxKeys) {
		names, args := []string{expiryKey(bucket), groupKey(bucket)}, []any{condition, value}
		for _, key := range some {
			names, args = append(names, recordKey(bucket, key)), append(args, key)
		}
		n, err := s.run(ctx, remove, names, args...).Int()
		removed += n
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// proves begins a script that may write nothing: it is a write that changes nothing,
// since nothing expires by itself, and a replica refuses it, where a connection from
// before a fail-over leads to what was the primary.
const proves = "redis.call('PERSIST', KEYS[1])\n"

// A script is Lua, which a server knows by its hash once it has run it.
type script struct {
	source, hash string
	writes       bool
}

func newScript(writes bool, source string) script {
	sum := sha1.Sum([]byte(source))
	return script{source, hex.EncodeToString(sum[:]), writes}
}

// run runs a script. A server that does not know it, because it was started
// again or told to forget, is told what it is; one that did not run it, and says so,
// is asked again.
func (s *Redis) run(ctx context.Context, script script, keys []string, args ...any) *redis.Cmd {
	command, text := "evalsha", script.hash
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		cmd := s.ask(ctx, script.writes, command, text, keys, args)
		switch err := cmd.Err(); {
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			command, text = "eval", script.source
			continue
		case !notRun(err):
			return cmd
		}
		select {
		case <-ctx.Done():
			return cmd
		case <-time.After(pause):
		}
	}
}

// notRun reports whether the server says that it did not run a script: it is a
// replica now, keys are on their way to another one, or somebody's script runs for
// long.
func notRun(err error) bool {
	for _, prefix := range []string{"MASTERDOWN ", "MOVED ", "ASK ", "TRYAGAIN ", "BUSY "} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	return err != nil && redis.IsReadOnlyError(err)
}

func (s *Redis) ask(ctx context.Context, once bool, command, script string, keys []string, args []any) *redis.Cmd {
	all := []any{command, script, len(keys)}
	for _, key := range keys {
		all = append(all, key)
	}
	cmd := redis.NewCmd(ctx, append(all, args...)...)
	if err := ctx.Err(); err != nil {
		cmd.SetErr(err)
		return cmd
	}
	var asked redis.Cmder = cmd
	if once {
		asked = onceCmd{cmd}
	}
	_ = s.client.Process(ctx, asked) // it is the command's error
	return cmd
}

// A onceCmd is not sent again by the client after an error of the network, when
// it may have taken effect: the second answer would be ErrConflict or
// ErrNotFound.
type onceCmd struct{ *redis.Cmd }

// NoRetry implements redis.Cmder.
func (onceCmd) NoRetry() bool { return true }
