// Package redisstore keeps login sessions in Redis: a single server, a primary with sentinels, or a
// cluster.
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
// It needs Redis 6.2 or later, and is tested with 7.0. All keys begin with "curfew:", and none of
// them expires. They hold no secret in the clear, but they show which users are signed in, and with
// which browsers and applications.
//
// The client must read from primaries, and not from replicas or its own cache; New refuses a client
// that is configured otherwise, if its go-redis options show it. A client that observes only the
// deadline of a context, as go-redis does, notices a cancellation when its own ReadTimeout is over.
// The Redis user needs the commands GET, GETEX, SET, GETRANGE,
// SETRANGE, DEL, INCR, PERSIST, HGET, HSET, HDEL, HLEN, HINCRBY, HGETALL, ZADD, ZREM, ZCARD, ZRANGE, ZRANGEBYLEX,
// EVAL, EVALSHA and INFO, on keys that begin with "curfew:".
//
// # What it costs
//
// A session is one value, read together with the fence of its subject by a script of
// two commands. Get, Create and Update are one round trip each, Update two if it changes the
// session's index entries: accounts, kind, or clients. Admit is one
// round trip that reads the subject's unended sessions and one that writes, and again
// if it lost a race. PutFence is one round trip, and two if there is a fence already; it never
// loses a race to a write of a session. Scripts only compare the stored values with those that were
// read, and write. All sessions of a subject are in
// one slot of a cluster. Due and Stats ask all 256 buckets, in one round trip to
// each server. With one server, while four reads are under way, the reads of further callers wait
// until one is answered, at most some milliseconds, and are then sent together in a pipeline.
//
// # Durability
//
// A write is acknowledged when the server has it. Its survival depends on the server's settings:
//
//   - appendonly yes, appendfsync always: an acknowledged write survives the death of the server
//     and, if its disk is honest, the loss of power. An acknowledged end is never undone.
//   - appendfsync everysec, which is Redis's default: the death of the process
//     loses nothing, the loss of power or of the machine up to about two seconds.
//   - Without the append-only file, all writes since the last snapshot are lost, or everything.
//   - Fail-over to a replica, in a cluster or by sentinels, loses the writes that the replica had
//     not received, whatever appendfsync says: Redis replicates after it has acknowledged. That is
//     usually less than a second, but while a primary is cut off from the sentinels it acknowledges
//     writes that will be lost. min-replicas-to-write with min-replicas-max-lag bounds that time; no
//     setting makes it zero. If you must not lose an end, use one server with appendfsync always, or
//     PostgreSQL.
//
// After such a loss the store is in an earlier state. A later login is unknown: its tokens are
// refused as unknown_session. A later refresh appears as a token of a higher generation than the
// stored one: it is accepted if the provider's own storage still accepts it, and reported as a
// rollback. A later end is undone: the session is live again, with its former limits, until these
// or somebody end it again. A lost login does not count towards a cap. Later revocations are undone
// in the same way.
//
// maxmemory-policy must not be one of allkeys-*, which would evict sessions: no cap counts an
// evicted session. New refuses such a server. If the policy becomes such later, by a changed
// setting or after a fail-over, Create and Admit refuse to begin a session; all other calls go on,
// including ends and sweeps. When memory is full, calls that add or change
// sessions fail, a write takes effect as a whole or not at all, and reads, ends, PutFence and
// Delete go on.
//
// # Fail-over
//
// The store never reads from a replica, or decides by its data. After a switch, an older connection
// may lead to a server that is a replica now and falls behind, and the client may not learn of
// that. So a replica refuses every call (READONLY): a script that would write nothing calls
// PERSIST, and a plain read is a GETEX. The client then closes the connection, and the call is
// repeated on a new one, which follows the name. It is repeated until its context ends.
//
// This holds with sentinels, in a cluster, and behind a name or a TCP proxy that a switch points to
// another server. It does not help if the old primary still believes that it is the primary: give
// connections a lifetime (ConnMaxLifetime), so that they follow the name, and set
// min-replicas-to-write, so that a primary that is cut off refuses all calls, reads included.
// replica-read-only must be yes, Redis's default.
//
// A server that vanishes silently, as by a loss of power, leaves its connections open, and a call
// on one of them waits until its context ends. With a ConnMaxIdleTime of some seconds, connections
// that were idle for longer are closed instead of used.
//
// A server that cannot save to its disk (MISCONF) refuses reads too.
//
// While slots move to another server of a cluster, or a script blocks a server (BUSY), calls wait
// until they can be executed, or until their context ends.
//
// # Failures
//
// Reads are retried as the client is configured. A write is sent once, unless the server says that
// it was not executed. If the connection breaks after the write was sent, it is unknown whether it
// took effect; the error then wraps no error of package store. If the client itself sent it again,
// the second write would find the result of the first and take it for another process's.
package redisstore
