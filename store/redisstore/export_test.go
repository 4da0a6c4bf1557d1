package redisstore

import "github.com/redis/go-redis/v9"

// Reads returns how many reads are under way, a pipeline being one, and how many wait
// for them.
func (s *Store) Reads() (underway, waiting int) {
	s.reads.mu.Lock()
	defer s.reads.mu.Unlock()
	return s.reads.underway, len(s.reads.waiting)
}

// IsRead reports whether a command reads one session.
func IsRead(cmd redis.Cmder) bool {
	args := cmd.Args()
	return cmd.Name() == "evalsha" && args[1] == get.sha
}
