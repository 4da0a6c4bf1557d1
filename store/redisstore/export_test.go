package redisstore

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/unreadable"
)

// Reads returns how many reads are under way, a pipeline being one, and how many wait
// for them.
func (s *Store) Reads() (underway, waiting int) {
	s.reads.mu.Lock()
	defer s.reads.mu.Unlock()
	return s.reads.underway, len(s.reads.waiting)
}

// Peek and Claim are the two steps of Due.
func (s *Store) Peek(ctx context.Context, now time.Time, limit int) (items []string, err error) {
	found, err := s.peek(ctx, now, notHeeded(now, time.Minute), limit)
	for _, i := range found {
		items = append(items, string(i))
	}
	return items, err
}

func (s *Store) Claim(ctx context.Context, now time.Time, lease time.Duration, items []string) (won []store.Session, err error) {
	list := make([]item, len(items))
	for n, i := range items {
		list[n] = item(i)
	}
	sessions, err := s.claim(ctx, now, lease, list, new(unreadable.List))
	for _, i := range list {
		if one, ok := sessions[i]; ok {
			won = append(won, one)
		}
	}
	return won, err
}

// IsRead reports whether a command reads one session.
func IsRead(cmd redis.Cmder) bool {
	args := cmd.Args()
	return cmd.Name() == "evalsha" && args[1] == get.sha
}
