package redisstore

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A script is atomic in Redis. It compares what is stored with what was read, and
// writes if it is the same; it knows nothing else. All keys are declared where it
// writes, so that a cluster that is moving them refuses it before it begins; see
// removal, too.
type script struct {
	source, sha string
	writes      bool
}

// A script that may write nothing, since nothing is there or it is not what was read,
// asks first with proves: what a replica has may be of some time ago.
func newScript(writes bool, source string) *script {
	source = strings.TrimSpace(source)
	sum := sha1.Sum([]byte(source))
	return &script{source, hex.EncodeToString(sum[:]), writes}
}

// proves is a write that changes nothing, since no key of ours expires. A replica
// refuses it. It comes before no write that adds something: a script that has written
// is not stopped any more when memory is full.
const proves = "redis.call('PERSIST', KEYS[1])\n"

// subjectOf is the part of a script that finds the term of the subject in a record:
// the first one, after its length.
const subjectOf = `
local function subjectOf(record)
	local n, unit, i = 0, 1, 30
	local b = string.byte(record, i)
	while b and b >= 128 do
		n, unit, i = n + (b - 128) * unit, unit * 128, i + 1
		b = string.byte(record, i)
	end
	n = n + (b or 0) * unit -- of a damaged record there may be no more
	return string.sub(record, i + 1, i + n)
end
`

// removal is the part of a script that removes members of sorted sets, when all that
// is added was added. A set that loses its last member is gone, and of a key that is not
// there a cluster that moves its slot says that it is elsewhere, to a script that has
// written half of a step too. So no script asks for a key again that it may have emptied.
const removal = `
-- Called with the number of a set in KEYS and a member it takes note, and without it removes.
local function newRemoved()
	local members = {}
	return function(key, member)
		if key then
			members[key] = members[key] or {}
			table.insert(members[key], member)
			return
		end
		for key, list in pairs(members) do
			for i = 1, #list, 1000 do
				redis.call('ZREM', KEYS[key], unpack(list, i, math.min(i + 999, #list)))
			end
		end
	end
end
`

// The positions in a record are those of record.go, counted from one.
var (
	// get returns the record of a session and the fence of its subject, if there
	// are any.
	get = newScript(false, proves+subjectOf+`
-- KEYS: the session, fences
local record = redis.call('GET', KEYS[1])
if not record then
	return false
end
return {record, redis.call('HGET', KEYS[2], subjectOf(record)) or ''}
`)
	// update replaces a session that stays in the indexes that it is in, or that
	// ends and moves to those of the ended. It returns 1; 0 if there is none;
	// and the stored head if that is not what it must be. Most refreshes change
	// nothing but the record: for them it is one comparison.
	update = newScript(true, `
-- KEYS: the session, due, claims, claimed; of one that has ended also pairs of indexes: of the unended, of the ended
-- ARGV: the beginning of the stored record, if it is not claimed, has not ended and is due as the new one; the new one;
-- where that beginning ends, counted from zero: a number as text costs less than one that Lua writes
local expected, record = ARGV[1], ARGV[2]
local old = redis.call('GETRANGE', KEYS[1], '0', ARGV[3])
if old == expected and string.byte(record, 17) == 48 then
	redis.call('SET', KEYS[1], record)
	return 1
end
if old == '' then
	redis.call('PERSIST', KEYS[1])
	return 0
end
local sub, none = string.sub, '\0\0\0\0\0\0\0\0'
local was, is = sub(old, 17, 17), sub(record, 17, 17)
if sub(old, 9, 16) ~= sub(expected, 9, 16) or sub(old, 26) ~= sub(expected, 26) or (was == '1' and is == '0') then
	redis.call('PERSIST', KEYS[1])
	old = redis.call('GET', KEYS[1])
	return sub(old, 9, 29 + struct.unpack('>I4', old, 26))
end
if was ~= is then
	redis.call('PERSIST', KEYS[1]) -- full memory stops no script that has written: an end is possible
end
local id, claim, before, after = sub(KEYS[1], 15), sub(old, 1, 8), sub(old, 18, 25), sub(record, 18, 25)
if claim ~= none then
	redis.call('ZREM', KEYS[3], claim .. before .. id)
	redis.call('ZREM', KEYS[4], before .. id)
end
if after ~= none and (before ~= after or claim ~= none) then
	redis.call('ZADD', KEYS[2], 0, after .. id)
end
if before ~= after and before ~= none then
	redis.call('ZREM', KEYS[2], before .. id)
end
if was ~= is then
	for i = 5, #KEYS, 2 do
		redis.call('ZREM', KEYS[i], id)
		redis.call('ZADD', KEYS[i + 1], 0, id)
	end
end
redis.call('SET', KEYS[1], record)
return 1
`)

	// write adds, replaces and removes sessions of one subject, all or nothing.
	// It returns "" or what is in the way. It asks each time whether the server evicts:
	// that is a setting which somebody may change, and another server may have another.
	write = newScript(true, removal+`
-- KEYS: due, claims, claimed, generation, the subject's unended, fences, n sessions, indexes
-- ARGV: generation or '', exact number of unended or '', maximum or '', since when it is or '', the term of the subject, n,
--   n times: ID, expected head ('': it is not there), record ('': remove it, '=': leave it),
--   then: number of an index in KEYS, '+' or '-', ID
local none = '\0\0\0\0\0\0\0\0'
local function refuse(why)
	redis.call('PERSIST', KEYS[1])
	return why
end
local n = tonumber(ARGV[6])
local adds = false
for i = 1, n do
	adds = adds or ARGV[3 * i + 5] == ''
end
local evicts = adds and string.match(redis.call('INFO', 'memory'), 'maxmemory_policy:allkeys%-%w+')
if evicts then
	return refuse(evicts)
end
if ARGV[1] ~= '' and (redis.call('GET', KEYS[4]) or '0') ~= ARGV[1] then
	return refuse('changed')
end
local old = {}
for i = 1, n do
	local expected = ARGV[3 * i + 5]
	old[i] = redis.call('GET', KEYS[6 + i])
	if expected ~= '' and (not old[i] or string.sub(old[i], 9, 8 + #expected) ~= expected) then
		return refuse('changed')
	end
end
if ARGV[2] ~= '' and redis.call('ZCARD', KEYS[5]) ~= tonumber(ARGV[2]) then
	return refuse('changed')
end
for i = 1, n do
	if ARGV[3 * i + 5] == '' and old[i] then
		return refuse('exists')
	end
end
if ARGV[3] ~= '' and redis.call('ZCARD', KEYS[5]) >= tonumber(ARGV[3]) then
	return refuse('full')
end
if ARGV[4] ~= '' then
	-- Of the two numbers of a time, which as text would be compared by the rules of a language.
	local fence = redis.call('HGET', KEYS[6], ARGV[5])
	if fence then
		local f1, f2 = struct.unpack('>I4I4', fence)
		local s1, s2 = struct.unpack('>I4I4', ARGV[4])
		if f1 > s1 or (f1 == s1 and f2 >= s2) then
			return refuse('fenced')
		end
	end
end
local removed = newRemoved()
for i = 1, n do
	local id, record = ARGV[3 * i + 4], ARGV[3 * i + 6]
	local before, after = none, none
	if old[i] and record ~= '=' then
		if string.byte(record, 17) == 49 then
			redis.call('PERSIST', KEYS[6 + i]) -- full memory stops no script that has written: an end is possible
		end
		local claim = string.sub(old[i], 1, 8)
		before = string.sub(old[i], 18, 25)
		if claim ~= none then
			removed(2, claim .. before .. id)
			removed(3, before .. id)
		end
	end
	if record == '' then
		redis.call('DEL', KEYS[6 + i])
		if string.sub(old[i], 17, 17) == '0' then
			redis.call('INCR', KEYS[4])
		end
	elseif record ~= '=' then
		redis.call('SET', KEYS[6 + i], record)
		after = string.sub(record, 18, 25)
		if after ~= none then
			redis.call('ZADD', KEYS[1], 0, after .. id)
		end
	end
	if before ~= none and before ~= after then
		removed(1, before .. id)
	end
end
for i = 3 * n + 7, #ARGV, 3 do
	if ARGV[i + 1] == '+' then
		redis.call('ZADD', KEYS[tonumber(ARGV[i])], 0, ARGV[i + 2])
	else
		removed(tonumber(ARGV[i]), ARGV[i + 2])
	end
end
removed()
return ''
`)

	// held returns the generation of the bucket, the subject's fence or "", and the
	// IDs and records of its unended sessions, in order of ID. Their keys cannot be
	// declared; it only reads.
	held = newScript(false, proves+`
-- KEYS: the subject's unended, generation, fences
-- ARGV: what the keys of sessions begin with, the term of the subject
local found = {redis.call('GET', KEYS[2]) or '0', redis.call('HGET', KEYS[3], ARGV[2]) or ''}
for i, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
	found[2 * i + 1], found[2 * i + 2] = id, redis.call('GET', ARGV[1] .. id) or ''
end
return found
`)

	// candidates returns IDs from the smallest of some indexes, each of which may
	// be in several parts.
	candidates = newScript(false, proves+`
-- KEYS: indexes
-- ARGV: parts of each, after which ID, how many of each part
local parts = tonumber(ARGV[1])
local best, least
for i = 1, #KEYS, parts do
	local n = 0
	for j = i, i + parts - 1 do
		n = n + redis.call('ZCARD', KEYS[j])
	end
	if not least or n < least then
		best, least = i, n
	end
end
local found = {}
for j = best, best + parts - 1 do
	for _, id in ipairs(redis.call('ZRANGEBYLEX', KEYS[j], ARGV[2], '+', 'LIMIT', 0, ARGV[3])) do
		found[#found + 1] = id
	end
end
return found
`)

	// page returns the subject's fence or "", and the IDs and records of its sessions after
	// an ID, all read at one moment: a session that takes the place of another is on
	// it, or the other is.
	page = newScript(false, proves+`
-- KEYS: fences, the subject's indexes
-- ARGV: after which ID, how many of each, what the keys of sessions begin with, the term of the subject, how many indexes
local found = {redis.call('HGET', KEYS[1], ARGV[4]) or ''}
for i = 2, 1 + ARGV[5] do
	for _, id in ipairs(redis.call('ZRANGEBYLEX', KEYS[i], ARGV[1], '+', 'LIMIT', 0, ARGV[2])) do
		found[#found + 1] = id
		found[#found + 1] = redis.call('GET', ARGV[3] .. id) or ''
	end
end
return found
`)

	// peek returns what is due and not claimed, the most overdue first, after it
	// has put back what was claimed for too long.
	peek = newScript(true, proves+`
-- KEYS: due, claims, claimed
-- ARGV: what is after now, how many, how many to put back, from when on a claim is not heeded or ''
local function back(from, to)
	for _, claim in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], from, to, 'LIMIT', 0, ARGV[3])) do
		local item = string.sub(claim, 9)
		redis.call('ZREM', KEYS[2], claim)
		redis.call('ZREM', KEYS[3], item)
		redis.call('ZADD', KEYS[1], 0, item)
	end
end
back('-', ARGV[1])
if ARGV[4] ~= '' then
	back('[' .. ARGV[4], '+')
end
return redis.call('ZRANGEBYLEX', KEYS[1], '-', ARGV[1], 'LIMIT', 0, ARGV[2])
`)

	// claim claims those of some sessions that are due as they were and that
	// nobody else has claimed, and returns their records, and '' for the others,
	// each followed by the fence of its subject or ''.
	claim = newScript(true, proves+subjectOf+removal+`
-- KEYS: due, claims, claimed, fences, the sessions
-- ARGV: now, until when or '', from when on a claim is not heeded or '', of each session its time and ID
local none = '\0\0\0\0\0\0\0\0'
local function after(a, b)
	local a1, a2 = struct.unpack('>I4I4', a)
	local b1, b2 = struct.unpack('>I4I4', b)
	return a1 > b1 or (a1 == b1 and a2 > b2)
end
local found, removed = {}, newRemoved()
for i = 5, #KEYS do
	local item, record, n = ARGV[i - 1], redis.call('GET', KEYS[i]), 2 * i - 9
	found[n], found[n + 1] = '', ''
	if not record or string.sub(record, 18, 25) ~= string.sub(item, 1, 8) then
		removed(1, item)
	else
		local claim = string.sub(record, 1, 8)
		if after(claim, ARGV[1]) and (ARGV[3] == '' or after(ARGV[3], claim)) then
			-- Somebody was faster, or a clock was stepped back after it was put back.
			redis.call('ZADD', KEYS[2], 0, claim .. item)
			redis.call('ZADD', KEYS[3], 0, item)
			removed(1, item)
		else
			found[n], found[n + 1] = record, redis.call('HGET', KEYS[4], subjectOf(record)) or ''
			if ARGV[2] ~= '' then
				redis.call('SETRANGE', KEYS[i], 0, ARGV[2])
				redis.call('ZADD', KEYS[2], 0, ARGV[2] .. item)
				redis.call('ZADD', KEYS[3], 0, item)
				removed(1, item)
				if claim ~= none and claim ~= ARGV[2] then
					removed(2, claim .. item)
				end
			end
		end
	end
end
removed()
return found
`)

	// count returns the numbers of unended and of ended sessions, and what is due
	// first, of the unclaimed and of the claimed.
	count = newScript(false, proves+`
-- KEYS: the unended, the ended, due, claimed
return {redis.call('ZCARD', KEYS[1]), redis.call('ZCARD', KEYS[2]),
	redis.call('ZRANGE', KEYS[3], 0, 0)[1] or '', redis.call('ZRANGE', KEYS[4], 0, 0)[1] or ''}
`)

	// putFence puts a fence in the place of another, or removes it, and returns
	// nothing; or the one that is there, if that is another. Full memory does not stop
	// it, since it has written: an end of all is a few bytes, one time for each subject.
	putFence = newScript(true, proves+`
-- KEYS: fences, due
-- ARGV: the term of the subject, the fence before or '', the fence or ''
local none = '\0\0\0\0\0\0\0\0'
local old = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if old ~= ARGV[2] then
	return {old}
end
local before, after = string.sub(old, 17, 24), string.sub(ARGV[3], 17, 24)
if ARGV[3] == '' then
	redis.call('HDEL', KEYS[1], ARGV[1])
else
	redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
	if after ~= none then
		redis.call('ZADD', KEYS[2], 0, after .. ARGV[1])
	end
end
if old ~= '' and before ~= none and before ~= after then
	redis.call('ZREM', KEYS[2], before .. ARGV[1])
end
return {}
`)

	// oneFence returns the fence of a subject.
	oneFence = newScript(false, proves+`
-- KEYS: fences
-- ARGV: the term of the subject
return redis.call('HGET', KEYS[1], ARGV[1])
`)

	// dueFences returns the terms of subjects and the fences that are due, the most
	// overdue first.
	dueFences = newScript(false, proves+`
-- KEYS: fences, due
-- ARGV: what is after now, how many
local found = {}
for i, item in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], '-', ARGV[1], 'LIMIT', 0, ARGV[2])) do
	local term = string.sub(item, 9)
	found[2 * i - 1], found[2 * i] = term, redis.call('HGET', KEYS[1], term) or ''
end
return found
`)

	// addCounts adds to the counters of an hour.
	addCounts = newScript(true, `
-- KEYS: the hours of the account, the hour
-- ARGV: the hour, then names and what to add
redis.call('ZADD', KEYS[1], 0, ARGV[1])
for i = 2, #ARGV, 2 do
	redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1])
end
return ''
`)

	// readCounts returns hours, each with its counters. Their keys cannot be
	// declared; it only reads.
	readCounts = newScript(false, proves+`
-- KEYS: the hours of the account
-- ARGV: from which on, before which, how many, what the keys of hours begin with
local found = {}
for i, hour in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])) do
	found[i] = redis.call('HGETALL', ARGV[4] .. hour)
	table.insert(found[i], 1, hour)
end
return found
`)

	// dropCounts removes hours.
	dropCounts = newScript(true, `
-- KEYS: the hours of the account, hours
-- ARGV: the hours
for i, hour in ipairs(ARGV) do
	redis.call('DEL', KEYS[1 + i])
	redis.call('ZREM', KEYS[1], hour)
end
return ''
`)

	// size returns how many IDs are in an index.
	size = newScript(false, proves+`
-- KEYS: the index
return redis.call('ZCARD', KEYS[1])
`)

	// versions returns versions of a document, newest first.
	versions = newScript(false, proves+`
-- KEYS: the document
-- ARGV: the version before which they are or 0, how many
local newest = tonumber(redis.call('HGET', KEYS[1], 'newest') or redis.call('HLEN', KEYS[1]))
local before = tonumber(ARGV[1])
if before > 0 and before <= newest then
	newest = before - 1
end
local found = {}
for version = newest, math.max(1, newest - ARGV[2] + 1), -1 do
	local says = redis.call('HGET', KEYS[1], version)
	if not says then
		break -- it was removed, and so were those before it
	end
	found[#found + 1] = says
end
return found
`)

	// current returns the newest version of a document.
	current = newScript(false, proves+`
-- KEYS: the document
return redis.call('HGET', KEYS[1], redis.call('HGET', KEYS[1], 'newest') or redis.call('HLEN', KEYS[1]))
`)

	// put adds a version of a document and returns "", or returns which one is the
	// newest.
	put = newScript(true, `
-- KEYS: the document
-- ARGV: the version before, the new version, what it says, '1' if the versions before are removed
local newest = redis.call('HGET', KEYS[1], 'newest')
local version = tonumber(newest or redis.call('HLEN', KEYS[1]))
if version ~= tonumber(ARGV[1]) then
	redis.call('PERSIST', KEYS[1])
	return version
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
if newest or ARGV[4] == '1' then
	redis.call('HSET', KEYS[1], 'newest', ARGV[2])
end
if ARGV[4] == '1' then
	while version > 0 and redis.call('HDEL', KEYS[1], version) == 1 do
		version = version - 1
	end
end
return ''
`)

	// drop removes a key.
	drop = newScript(true, `
-- KEYS: the document
redis.call('DEL', KEYS[1])
return ''
`)
)

// A call is one call of a script; or, without one, a command that may be made again.
type call struct {
	script *script
	keys   []string
	args   []any // of a command its name first, and keys too
}

// readKey is the command that reads a key. GETEX without an option is GET but for
// counting as a write, so that a replica refuses it.
func readKey(key string) call { return call{args: []any{"getex", key}} }

// once is a command that the client must not send again by itself: the second
// one would find what the first one wrote, and take it for somebody else's.
type once struct{ *redis.Cmd }

func (once) NoRetry() bool { return true }

func (c call) command(ctx context.Context, inFull bool) (cmd redis.Cmder, result *redis.Cmd) {
	if c.script == nil {
		result = redis.NewCmd(ctx, c.args...)
		return result, result
	}
	args := make([]any, 0, 3+len(c.keys)+len(c.args))
	if inFull {
		args = append(args, "eval", c.script.source)
	} else {
		args = append(args, "evalsha", c.script.sha)
	}
	args = append(args, len(c.keys))
	for _, key := range c.keys {
		args = append(args, key)
	}
	result = redis.NewCmd(ctx, append(args, c.args...)...)
	if c.script.writes {
		return once{result}, result
	}
	return result, result
}

// run makes calls in one round trip (to each server of a cluster) and returns
// what they return; nil for a key that is not there. Those that were not executed,
// because the server does not have the script or cannot run it at the moment, it
// makes again.
func (s *Store) run(ctx context.Context, calls ...call) ([]any, error) {
	results := make([]any, len(calls))
	pending := make([]int, len(calls))
	for i := range calls {
		pending[i] = i
	}
	inFull := false
	var pause backoff
	for len(pending) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		cmds := make([]redis.Cmder, len(pending))
		made := make([]*redis.Cmd, len(pending))
		for i, n := range pending {
			cmds[i], made[i] = calls[n].command(ctx, inFull)
		}
		if len(cmds) == 1 {
			_ = s.client.Process(ctx, cmds[0])
		} else {
			pipe := s.client.Pipeline()
			for _, cmd := range cmds {
				_ = pipe.Process(ctx, cmd)
			}
			_, _ = pipe.Exec(ctx) // each command has its own error
		}
		var again []int
		var refused error
		for i, n := range pending {
			result, err := made[i].Result()
			switch {
			case err == nil || errors.Is(err, redis.Nil):
				results[n] = result
			case redis.HasErrorPrefix(err, "NOSCRIPT"):
				again, inFull = append(again, n), true
			case unexecuted(err):
				again, refused = append(again, n), err
			default:
				return nil, fault(ctx, err)
			}
		}
		pending = again
		if refused != nil {
			if err := pause.wait(ctx, refused); err != nil {
				return nil, err
			}
			if redis.HasErrorPrefix(refused, "MASTERDOWN") {
				// Of such a connection the client does not know that it is a
				// replica's, and would give it out again: this tells it.
				_ = s.client.Process(ctx, redis.NewCmd(ctx, readKey(formatKey).args...))
			}
		}
	}
	return results, nil
}

// unexecuted reports whether the server says that it did not execute a command, and
// that it will be executed elsewhere or soon:
//
//   - the server is a replica, which the client's connection was made to before a
//     switch; the client closes it, and the next one leads to the primary
//   - keys are being moved to another server of the cluster, further than the client
//     follows them
//   - somebody's script runs for long
func unexecuted(err error) bool {
	if err == nil {
		return false
	}
	for _, prefix := range []string{"MASTERDOWN", "MOVED", "ASK", "TRYAGAIN", "BUSY"} {
		if redis.HasErrorPrefix(err, prefix+" ") {
			return true
		}
	}
	// READONLY, of which Redis 6.2 has a form of its own for a command in a script; and
	// what is said of a key that was moved while a script looked for it.
	return redis.IsReadOnlyError(err) || strings.Contains(err.Error(), "attempted to access a non local key")
}

// A backoff is for how long to wait until a command is made again.
type backoff struct{ next time.Duration }

// wait waits, longer each time. Should the context end meanwhile, it returns its
// error, with why the command was to be made again.
func (b *backoff) wait(ctx context.Context, why error) error {
	b.next = min(max(2*b.next, time.Millisecond), 50*time.Millisecond)
	if err := sleep(ctx, b.next/2+rand.N(b.next)); err != nil {
		return fmt.Errorf("%w: %w", err, why)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// fault returns err as the context's error if the context ended, whatever the
// client made of that. The connection's deadline is the context's, and may pass
// a moment before the context notices.
func fault(ctx context.Context, err error) error {
	end := ctx.Err()
	var timeout net.Error
	if deadline, ok := ctx.Deadline(); end == nil && ok && errors.As(err, &timeout) && timeout.Timeout() && time.Until(deadline) <= 0 {
		end = context.DeadlineExceeded
	}
	if end == nil || errors.Is(err, end) {
		return err
	}
	return fmt.Errorf("%w: %w", end, err)
}
