package redisstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/curfew-oidc/curfew/store"
)

// Store is a [store.Store] in Redis. It is made by [New].
type Store struct {
	client redis.UniversalClient
	reads  *reads

	// admitting holds a token for each bucket in which this store admits: of
	// those who would lose the race to each other anyway, one at a time reads.
	admitting [buckets]chan struct{}
}

// format is the version of what the keys mean.
const format = 1

const formatKey = keyPrefix + "format"

// New returns the store in Redis. It fails if the client would read from replicas or a cache, or
// distribute keys by itself, or does not observe the deadlines of contexts; if a server is older
// than Redis 6.2, is a replica, or would evict keys; and if a newer version of this package changed
// the stored format. The caller closes the client.
func New(ctx context.Context, client redis.UniversalClient) (*Store, error) {
	s := &Store{client: client}
	s.reads = newReads(client, s.readAlone)
	for i := range s.admitting {
		s.admitting[i] = make(chan struct{}, 1)
	}
	if err := s.check(ctx); err != nil {
		return nil, fmt.Errorf("open Redis session store: %w", fault(ctx, err))
	}
	return s, nil
}

func (s *Store) check(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	const noDeadlines = "the client does not heed the deadlines of contexts: set ContextTimeoutEnabled"
	var err error
	switch c := s.client.(type) {
	case *redis.Ring:
		return errors.New("a Ring moves keys when a server does not answer: sessions on that server would be lost")
	case *redis.ClusterClient:
		o := c.Options()
		switch {
		case o.ReadOnly || o.RouteByLatency || o.RouteRandomly:
			return errors.New("the client reads from replicas, which lag behind: unset ReadOnly, RouteByLatency and RouteRandomly")
		case !o.ContextTimeoutEnabled:
			return errors.New(noDeadlines)
		}
		err = c.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return checkServer(ctx, c, true) })
	case *redis.Client:
		o := c.Options()
		switch {
		case o.ClientSideCacheConfig != nil || o.ClientSideCache != nil:
			return errors.New("the client answers reads from a cache, which lags behind: unset ClientSideCacheConfig and ClientSideCache")
		case !o.ContextTimeoutEnabled:
			return errors.New(noDeadlines)
		}
		err = checkServer(ctx, c, false)
	default:
		err = checkServer(ctx, c, true)
	}
	if err != nil {
		return err
	}
	if err := s.client.SetNX(ctx, formatKey, format, 0).Err(); err != nil {
		return err
	}
	results, err := s.run(ctx, readKey(formatKey))
	if err != nil {
		return err
	}
	text, _ := results[0].(string)
	is, err := strconv.Atoi(text)
	if err == nil && is > format {
		err = fmt.Errorf("format %d, made by a newer version of Curfew; this one knows up to %d", is, format)
	}
	return err
}

// checkServer checks what a server says of itself. CONFIG, which many services
// do not allow, is not needed.
func checkServer(ctx context.Context, c redis.Cmdable, cluster bool) error {
	text, err := c.Info(ctx).Result()
	if err != nil {
		return fmt.Errorf("INFO: %w", err)
	}
	info := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		info[name] = value
	}
	var major, minor int
	if _, err := fmt.Sscanf(info["redis_version"], "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("the server says that it is version %q", info["redis_version"])
	}
	switch policy := info["maxmemory_policy"]; {
	case major < 6 || major == 6 && minor < 2:
		return fmt.Errorf("the server is version %s, at least 6.2 is required", info["redis_version"])
	case info["role"] != "" && info["role"] != "master":
		return errors.New("the server is a replica")
	case info["cluster_enabled"] == "1" && !cluster:
		return errors.New("the server belongs to a cluster: use a cluster client")
	case strings.HasPrefix(policy, "allkeys-"):
		// Those that begin with "volatile-" evict nothing of ours: it does
		// not expire.
		return errEvicts(policy)
	}
	return nil
}

func notFound(id string) error { return fmt.Errorf("session %q: %w", id, store.ErrNotFound) }
func conflict(id string, is, want int64) error {
	return fmt.Errorf("session %q: %w: its revision is %d, not %d", id, store.ErrConflict, is, want)
}

// getCall is the read of a session.
func getCall(id string) call {
	return call{get, []string{sessionKey(id), fencesKey(id[:2])}, nil}
}

func (s *Store) readAlone(ctx context.Context, id string) ([]string, error) {
	results, err := s.run(ctx, getCall(id))
	if err != nil {
		return nil, err
	}
	return texts(results[0]), nil
}

// read reads a record and the fence of its subject; "" is none.
func (s *Store) read(ctx context.Context, id string) (record, fence string, err error) {
	if err := ctx.Err(); err != nil {
		return "", "", err
	}
	if !inBucket(id) {
		return "", "", nil
	}
	list, err := s.reads.get(ctx, id)
	if err != nil || len(list) < 2 {
		return "", "", fault(ctx, err)
	}
	return list[0], list[1], nil
}

// Get implements [store.Sessions].
func (s *Store) Get(ctx context.Context, id string) (store.Session, error) {
	record, fence, err := s.read(ctx, id)
	switch {
	case err != nil:
		return store.Session{}, fmt.Errorf("get session: %w", err)
	case record == "":
		return store.Session{}, fmt.Errorf("get %w", notFound(id))
	}
	session, err := parseFenced(record, fence)
	if err != nil {
		return store.Session{}, fmt.Errorf("get session %q: %w", id, err)
	}
	return session, nil
}

// A step is one call of the script write: what must be so, and what to do then.
type step struct {
	bucket                     string
	subject                    string // its term
	generation, exact, maximum string // "": does not matter
	since                      string // when it began, if the fence must not be later; "": it may
	sessions                   []change
}

// A change adds a session (before is nil), replaces it, removes it (after is nil),
// or only requires that it is as it was.
type change struct {
	id     string
	before *head
	after  *row
	only   bool // require
}

// What is in the way of a step.
const (
	changed = "changed"
	exists  = "exists"
	full    = "full"
	fenced  = "fenced"

	evicts = "maxmemory_policy:" // and the policy
)

func errEvicts(policy string) error {
	return fmt.Errorf("maxmemory-policy is %s, so that sessions would be evicted: set it to noeviction", policy)
}

// write returns "" or what was in the way of the step.
func (s *Store) write(ctx context.Context, st step) (inTheWay string, err error) {
	keys := append(queueKeys(st.bucket), generationKey(st.bucket), indexKey(st.bucket, false, st.subject), fencesKey(st.bucket))
	args := []any{st.generation, st.exact, st.maximum, st.since, st.subject, len(st.sessions)}
	for _, c := range st.sessions {
		keys = append(keys, sessionKey(c.id))
		expected, record := "", []byte(nil)
		if c.before != nil {
			expected = c.before.raw
		}
		switch {
		case c.only:
			record = []byte("=")
		case c.after != nil:
			record = c.after.record
		}
		args = append(args, c.id, expected, record)
	}
	number := map[string]int{} // of a key, from one
	op := func(key, what, id string) {
		if number[key] == 0 {
			keys = append(keys, key)
			number[key] = len(keys)
		}
		args = append(args, number[key], what, id)
	}
	for _, c := range st.sessions {
		if c.only {
			continue
		}
		var before, after []string
		if c.before != nil {
			before = indexes(st.bucket, c.before.ended, c.before.terms)
		}
		if c.after != nil {
			after = indexes(st.bucket, c.after.ended, c.after.terms)
		}
		for _, key := range without(before, after) {
			op(key, "-", c.id)
		}
		for _, key := range without(after, before) {
			op(key, "+", c.id)
		}
	}
	results, err := s.run(ctx, call{write, keys, args})
	if err != nil {
		return "", err
	}
	inTheWay, ok := results[0].(string)
	if !ok {
		return "", fmt.Errorf("the script returned %v", results[0])
	}
	if policy, is := strings.CutPrefix(inTheWay, evicts); is {
		return "", errEvicts(policy)
	}
	return inTheWay, nil
}

// without returns what is in a and not in b.
func without(a, b []string) (list []string) {
	in := make(map[string]bool, len(b))
	for _, key := range b {
		in[key] = true
	}
	for _, key := range a {
		if !in[key] {
			list = append(list, key)
		}
	}
	return list
}

// Create implements [store.Sessions].
func (s *Store) Create(ctx context.Context, session store.Session, max int) error {
	if session.End != nil {
		return fmt.Errorf("create session %q: it has ended", session.ID)
	}
	r, err := newRow(&session, 1)
	if err != nil {
		return fmt.Errorf("create session: %w", err)
	}
	inTheWay, err := s.write(ctx, step{
		bucket: r.bucket, subject: r.terms[0], maximum: strconv.Itoa(max), since: sortable(session.Started),
		sessions: []change{{id: r.id, after: &r}},
	})
	switch {
	case err != nil:
		return fmt.Errorf("create session: %w", err)
	case inTheWay == exists:
		return fmt.Errorf("create session %q: %w", session.ID, store.ErrExists)
	case inTheWay == full:
		return fmt.Errorf("create session: %w: the subject has %d or more", store.ErrFull, max)
	case inTheWay == fenced:
		return fmt.Errorf("create session %q: %w", session.ID, store.ErrFenced)
	}
	return nil
}

// Update implements [store.Sessions].
func (s *Store) Update(ctx context.Context, session store.Session) (int64, error) {
	if err := s.update(ctx, session); err != nil {
		return 0, fmt.Errorf("update session: %w", err)
	}
	return session.Revision + 1, nil
}

func (s *Store) update(ctx context.Context, session store.Session) error {
	r, err := newRow(&session, session.Revision+1)
	if err != nil {
		return err
	}
	keys := append([]string{sessionKey(r.id)}, queueKeys(r.bucket)...)
	if r.ended {
		from, to := indexes(r.bucket, false, r.terms), indexes(r.bucket, true, r.terms)
		for i := range from {
			keys = append(keys, from[i], to[i])
		}
	}
	expected := r.unclaimed(session.Revision)
	for {
		results, err := s.run(ctx, call{update, keys, []any{expected, r.record, len(expected) - 1}})
		if err != nil {
			return err
		}
		stored, differs := results[0].(string)
		switch {
		case results[0] == int64(0):
			return notFound(r.id)
		case !differs:
			return nil
		}
		// Somebody else wrote it, it must not be written, or what it is found
		// by changes.
		h, err := parseHead(stored)
		switch {
		case err != nil:
			return fmt.Errorf("session %q: %w", r.id, err)
		case h.revision != session.Revision:
			return conflict(r.id, h.revision, session.Revision)
		case h.terms[0] != r.terms[0]:
			return fmt.Errorf("session %q is of another subject", r.id)
		case h.ended && !r.ended:
			return fmt.Errorf("session %q has ended and cannot be brought back", r.id)
		}
		inTheWay, err := s.write(ctx, step{
			bucket: r.bucket, subject: r.terms[0],
			sessions: []change{{id: r.id, before: &h, after: &r}},
		})
		if err != nil || inTheWay == "" {
			return err
		}
	}
}

// Delete implements [store.Sessions].
func (s *Store) Delete(ctx context.Context, id string, revision int64) error {
	if err := s.remove(ctx, id, revision); err != nil {
		return fmt.Errorf("delete session: %w", err)
	}
	return nil
}

func (s *Store) remove(ctx context.Context, id string, revision int64) error {
	for {
		record, _, err := s.read(ctx, id)
		if err != nil || record == "" {
			return err
		}
		h, err := parseHead(headOf(record))
		if err != nil {
			return fmt.Errorf("session %q: %w", id, err)
		}
		if h.revision != revision {
			return conflict(id, h.revision, revision)
		}
		inTheWay, err := s.write(ctx, step{
			bucket: id[:2], subject: h.terms[0],
			sessions: []change{{id: id, before: &h}},
		})
		if err != nil || inTheWay == "" {
			return err
		}
	}
}

// answerGrace is how long the answer to a write of Admit is waited for when the
// context has ended after the write was sent: it is on its way, and without it
// nobody knows whether the step took place.
const answerGrace = 100 * time.Millisecond

// Admit implements [store.Sessions].
func (s *Store) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("admit: %w", err)
	}
	bucket := store.Bucket(subject)
	number, err := strconv.ParseUint(bucket, 16, 8)
	if err != nil {
		return fmt.Errorf("admit: %w", err)
	}
	lost := func(err error) error { return fmt.Errorf("admit: %w: %w", store.ErrConflict, err) }
	select {
	case s.admitting[number] <- struct{}{}:
		defer func() { <-s.admitting[number] }()
	case <-ctx.Done():
		return lost(ctx.Err())
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		now, fence, st, err := s.held(ctx, bucket, subject)
		switch {
		case err != nil && ctx.Err() != nil:
			return lost(fault(ctx, err)) // it only read
		case err != nil:
			return fmt.Errorf("admit: %w", err)
		}
		decided, err := decide(now, fence)
		if err != nil {
			return err
		}
		if len(decided) == 0 {
			return nil
		}
		if err := s.plan(ctx, &st, subject, decided); err != nil {
			return fmt.Errorf("admit: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return lost(err)
		}
		answer, cancel := ctx, context.CancelFunc(func() {})
		if deadline, ok := ctx.Deadline(); ok {
			answer, cancel = context.WithDeadline(context.WithoutCancel(ctx), deadline.Add(answerGrace))
		}
		inTheWay, err := s.write(answer, st)
		cancel()
		switch {
		case err != nil:
			return fmt.Errorf("admit: %w", fault(ctx, err))
		case inTheWay == exists:
			return fmt.Errorf("admit: %w", store.ErrExists)
		case inTheWay == "":
			return nil
		}
		if err := sleep(ctx, rand.N(pause)); err != nil {
			return lost(err)
		}
	}
}

// held returns the subject's unended sessions and its fence, and a step that writes
// nothing and is only possible as long as the sessions are as they are.
func (s *Store) held(ctx context.Context, bucket string, subject store.Subject) ([]store.Session, store.Fence, step, error) {
	var fence store.Fence
	term := subjectTerm(subject)
	index := indexKey(bucket, false, term)
	list, err := s.records(ctx, call{held, []string{index, generationKey(bucket), fencesKey(bucket)}, []any{bucketPrefix(bucket) + "s:", term}}, []string{index}, 2)
	if err != nil {
		return nil, fence, step{}, err
	}
	if list[1] != "" {
		if fence, err = parseFence(list[1]); err != nil {
			return nil, fence, step{}, err
		}
		fence.Revision = 0
	}
	records := list[2:]
	st := step{bucket: bucket, subject: term, generation: list[0], exact: strconv.Itoa(len(records) / 2)}
	sessions := make([]store.Session, 0, len(records)/2)
	for i := 0; i < len(records); i += 2 {
		id, record := records[i], records[i+1]
		one, err := parseRecord(record)
		if err != nil {
			return nil, fence, step{}, fmt.Errorf("session %q: %w", id, err)
		}
		h, err := parseHead(headOf(record))
		if err != nil {
			return nil, fence, step{}, fmt.Errorf("session %q: %w", id, err)
		}
		one.Fence = fence
		sessions = append(sessions, one)
		st.sessions = append(st.sessions, change{id: one.ID, before: &h, only: true})
	}
	return sessions, fence, st, nil
}

// plan has the step write what was decided.
func (s *Store) plan(ctx context.Context, st *step, subject store.Subject, decided []store.Session) error {
	held := make(map[string]*change, len(st.sessions))
	for i := range st.sessions {
		held[st.sessions[i].id] = &st.sessions[i]
	}
	var added []change
	seen := make(map[string]bool, len(decided))
	var stillborn string
	for i := range decided {
		one := &decided[i]
		was := held[one.ID]
		revision := int64(1)
		if was != nil {
			revision = was.before.revision + 1
		}
		r, err := newRow(one, revision)
		switch {
		case err != nil:
			return err
		case one.Subject != subject:
			return fmt.Errorf("session %q is of another subject", one.ID)
		case seen[one.ID]:
			return fmt.Errorf("session %q was decided twice", one.ID)
		}
		seen[one.ID] = true
		switch {
		case was != nil:
			was.after, was.only = &r, false
		case one.End != nil:
			stillborn = one.ID
		default:
			added = append(added, change{id: one.ID, after: &r})
		}
	}
	st.sessions = append(st.sessions, added...)
	if stillborn == "" {
		return nil
	}
	record, _, err := s.read(ctx, stillborn)
	switch {
	case err != nil:
		return err
	case record != "":
		return fmt.Errorf("session %q: %w", stillborn, store.ErrExists)
	}
	return fmt.Errorf("session %q is new and has ended", stillborn)
}

// texts returns the strings of an array that a script returned.
func texts(reply any) []string {
	array, _ := reply.([]any)
	list := make([]string, len(array))
	for i := range array {
		list[i], _ = array[i].(string)
	}
	return list
}
