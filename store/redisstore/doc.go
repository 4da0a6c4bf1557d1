// Package redisstore keeps login sessions in Redis: a single server, a primary
// that sentinels watch, or a cluster.
//
// It takes the caller's client of github.com/redis/go-redis/v9:
//
//	client := redis.NewUniversalClient(&redis.UniversalOptions{
//		Addrs:                 []string{"redis.internal:6379"},
//		ContextTimeoutEnabled: true,            // required: deadlines of contexts count
//		ConnMaxLifetime:       5 * time.Minute, // a name may lead elsewhere
//		ConnMaxIdleTime:       10 * time.Second, // a server may vanish without a word
//	})
//	sessions, err := redisstore.New(ctx, client)
//
// Redis 6.2 or later will do; 7.0 is what it is tested with. All keys begin with
// "curfew:", and none of them expires. They hold no secret in the clear, but they
// tell who is signed in and with what.
//
// The client must read from primaries and not from a cache of its own; [New] refuses
// one that is set up to, as far as a go-redis client tells. A client that notices the
// end of a context only by its deadline, as go-redis does, notices a cancellation
// when its own ReadTimeout is over. The user needs the commands GET, GETEX, SET, GETRANGE,
// SETRANGE, DEL, INCR, PERSIST, HGET, HSET, HDEL, HLEN, HINCRBY, HGETALL, ZADD, ZREM, ZCARD, ZRANGE, ZRANGEBYLEX,
// EVAL, EVALSHA and INFO, on keys that begin with "curfew:".
//
// # What it costs
//
// A session is one value, read together with the fence of its subject by a script of
// two commands. Get, Create and Update are one round trip each, Update two where it
// changes what the session is found by: accounts, kind, or clients. Admit is one
// round trip that reads the subject's unended sessions and one that writes, and again
// if it lost a race. PutFence is one round trip, and two where there is a fence; it
// loses a race to no write of a session. Scripts only compare
// what is stored with what was read, and write. All sessions of a subject are in
// one slot of a cluster. Due and Stats ask all 256 buckets, in one round trip to
// each server. With one server, while four reads are under way, those of further
// callers wait for one to be answered, at most some milliseconds, and go together
// in a pipeline.
//
// # Durability
//
// A write is acknowledged when the server has it, which says nothing of disks and
// other servers:
//
//   - appendonly yes, appendfsync always: what was acknowledged survives the death
//     of the server and, if its disk tells the truth, the loss of power. An end
//     that was acknowledged does not come undone.
//   - appendfsync everysec, which is Redis's default: the death of the process
//     loses nothing, the loss of power or of the machine up to about two seconds.
//   - Without the append-only file, all since the last snapshot is lost, or
//     everything.
//   - Fail-over to a replica, in a cluster or by sentinels, loses what the replica
//     had not received, whatever appendfsync says: Redis replicates after it has
//     acknowledged. It is mostly less than a second, but while a primary is cut
//     off from the sentinels it acknowledges writes that will be lost.
//     min-replicas-to-write with min-replicas-max-lag bounds for how long; nothing
//     makes it none. Whoever must not lose an end uses one server with appendfsync
//     always, or PostgreSQL.
//
// After such a loss the store is as it was some time ago. A login since then is
// not known: its tokens are refused as unknown_session. A refresh since then shows
// as a token of a generation above the stored one: it is taken if the provider's
// own storage still takes it, and reported as a rollback. An end since then has
// not happened: the session is live again, with the limits that it had, until they
// end it or somebody does once more; and of two logins at a cap the one that was
// lost does not count. Revocations since then are undone in the same way.
//
// maxmemory-policy must not be one of allkeys-*, which would evict sessions. New
// refuses that, and what begins a session does where it is so later, by a changed
// setting or after a fail-over: what was evicted is counted by no cap. All else goes
// on, ends and sweeps too. When memory is full, what adds or changes sessions then fails, a write
// takes effect as a whole or not at all, and reads, ends, PutFence and Delete go on.
//
// # Fail-over
//
// Nothing is read from a replica, and nothing decided by what one has. A connection
// that was made before a switch may lead to what is a replica now and falls behind,
// and nobody need tell the client: so each call is one that a replica refuses
// (READONLY): a script that writes nothing by PERSIST, and a plain read as GETEX. The
// client then closes the connection, and the call goes on by another one, which leads
// to where the name leads by then. It asks until its context ends.
//
// This is so by sentinels, in a cluster, and behind a name or a TCP proxy that a switch
// turns to another server. It does not help where the old primary still takes itself
// for one: give connections a lifetime (ConnMaxLifetime), so that they follow the name,
// and set min-replicas-to-write, with which a primary that is cut off refuses all
// calls, reads included. replica-read-only must be yes, which is Redis's default.
//
// A server that vanishes without a word, as by a loss of power, leaves its connections
// open, and a call by one of them waits until its context ends. With a ConnMaxIdleTime
// of some seconds those that were idle for longer are closed instead of used.
//
// A server that cannot save to its disk (MISCONF) refuses reads as it refuses writes.
//
// While slots move to another server of a cluster, or somebody's script holds a server
// up (BUSY), calls wait until they can be executed, or their context ends.
//
// # Failures
//
// Reads are tried again as the client is set up to. A write is sent once, except
// where the server says that it was not executed: a connection that breaks after
// it was sent leaves it unknown whether it took effect, and the error says so by
// being none of those of package store. A second one, sent by the client itself,
// would find what the first one wrote and take it for another's.
package redisstore
